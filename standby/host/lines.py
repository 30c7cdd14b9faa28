"""Log lines of many agents in one process: each says which run it is about, a step's also.

Prefect's own lines have the name of a flow run, which others may have as well, or of a task run alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from prefect.logging.formatters import PrefectFormatter

_RUN = "Flow run %(flow_run_name)r"
_WHICH = f"{_RUN} (%(flow_run_id).8s)"
_MORE = {_RUN: _WHICH, "Task run %(task_run_name)r": f"{_WHICH}, step %(task_run_name)r"}
_NOBODY = {"flow_run_name": "<unknown>", "flow_run_id": "<unknown>", "task_run_name": "<unknown>"}


IS_SAID = {"is_said": True}
"""``extra`` of a line that is for the run's page in Prefect, and that the host's own log has already."""


class _NotTwice(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(record, "is_said", False)


_not_twice = _NotTwice()


def name_runs(handlers: Iterable[logging.Handler] | None = None) -> None:
    """Have these handlers, or all of the process, name them. A chosen format stays, but for the names. What the host's
    own log has they do not show once more."""
    for handler in logging.getLogger().handlers if handlers is None else handlers:
        formatter = handler.formatter
        if isinstance(formatter, PrefectFormatter):
            handler.addFilter(_not_twice)
            handler.setFormatter(
                PrefectFormatter(
                    formatter._fmt, formatter.datefmt, flow_run_fmt=_more(formatter.flow_run_fmt),
                    task_run_fmt=_more(formatter.task_run_fmt), defaults=_NOBODY,
                )
            )  # fmt: skip


def _more(chosen: str | None) -> str | None:
    for short, whole in _MORE.items():
        if chosen is not None and whole not in chosen:
            chosen = chosen.replace(short, whole)
    return chosen
