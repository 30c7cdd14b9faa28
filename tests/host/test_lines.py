"""A host's log is of many agents: who reads it sees of which run each line is."""

from __future__ import annotations

import logging
from typing import Any

from prefect.logging.formatters import PrefectFormatter

from standby.host.lines import IS_SAID, name_runs

RUN = {"flow_run_name": "brave-owl", "flow_run_id": "0b4b3a8e-5a0c-4b42-9a86-0d6ff4a3a123"}


def said(handler: logging.Handler, logger: str, **about: Any) -> str:
    record = logging.LogRecord(logger, logging.INFO, __file__, 1, "done", None, None)
    record.__dict__ |= about
    return handler.format(record)


def test_each_line_has_the_run_s_name_and_id_and_a_step_s_line_also_the_step() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(
        PrefectFormatter(
            "%(name)s - %(message)s", flow_run_fmt="Flow run %(flow_run_name)r - %(message)s",
            task_run_fmt="Task run %(task_run_name)r - %(message)s",
        )
    )  # fmt: skip
    for _ in range(2):  # a second host in the same process changes nothing more
        name_runs([handler])
    assert said(handler, "prefect.flow_runs", **RUN) == "Flow run 'brave-owl' (0b4b3a8e) - done"
    step = said(handler, "prefect.task_runs", **RUN, task_run_name="pay")
    assert step == "Flow run 'brave-owl' (0b4b3a8e), step 'pay' - done"
    assert said(handler, "prefect.task_runs") == "Flow run '<unknown>' (<unknown), step '<unknown>' - done"
    assert said(handler, "standby.host") == "standby.host - done"
    record = logging.makeLogRecord(IS_SAID)
    assert not handler.filter(record), "the host's own log has it"


def test_a_format_of_somebody_s_own_stays() -> None:
    handler = logging.StreamHandler()
    own = logging.Formatter("%(message)s!")
    handler.setFormatter(own)
    name_runs([handler])
    assert handler.formatter is own
