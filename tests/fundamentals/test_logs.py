"""What the log says of a step that raised: once where it was, in the words that it had."""

from __future__ import annotations

import asyncio
import logging
from io import StringIO

import pytest
from prefect.logging.handlers import PrefectConsoleHandler

from standby import agent, step
from standby.failures import stored
from standby.parking import calm_logs
from tests.fundamentals.conftest import Desk


class Unreadable(Exception):
    def __init__(self, file: str, field: str) -> None:
        super().__init__(file, field)
        self.file, self.field = file, field


@step
async def read(file: str) -> str:
    raise Unreadable(file, "cbc:ID:")


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.name for record in caplog.records if record.exc_info]


async def test_an_error_that_ends_the_run_has_one_traceback_and_is_not_persisted_by_prefect(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    @agent
    async def clerk() -> str:
        return await read("a.xml")

    run = await desk.start(clerk)
    with pytest.raises(Unreadable) as raised:
        await run.result()
    assert "Failed to write result" not in caplog.text
    assert tracebacks(caplog) == ["prefect.task_runs"]
    assert "Encountered exception during execution: Unreadable(" in caplog.text
    assert "logged" not in stored(raised.value)


async def test_errors_of_several_steps_and_of_the_agent_itself_are_logged_where_they_were(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    @agent
    async def clerks() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(read.with_options(key="a")("a.xml"))
            group.create_task(read.with_options(key="b")("b.xml"))

    @agent
    async def boss() -> None:
        try:
            await read("a.xml")
        except Unreadable as error:
            raise ValueError("no work today") from error

    for which, expected in ((clerks, {"prefect.task_runs"}), (boss, {"prefect.task_runs", "prefect.flow_runs"})):
        caplog.clear()
        run = await desk.start(which)
        with pytest.raises((ExceptionGroup, ValueError)):
            await run.result()
        assert set(tracebacks(caplog)) == expected


def test_what_was_said_is_no_picture() -> None:
    said = StringIO()
    handler = PrefectConsoleHandler(stream=said)
    logger = logging.getLogger("prefect")
    logger.addHandler(handler)
    try:
        calm_logs()
        logger.error("cbc:ID: is missing")
    finally:
        logger.removeHandler(handler)
    assert said.getvalue() == "cbc:ID: is missing\n"
