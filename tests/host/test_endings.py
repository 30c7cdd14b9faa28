"""However an agent ends, the host and all others in it go on, and nothing of it acts on."""

from __future__ import annotations

import asyncio

import pytest
from prefect.client.schemas.objects import StateType

from standby.states import RunState
from tests.host.conftest import Inn, Run

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"),
    pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True),
]


async def start(inn: Inn, function: str, **parameters: object) -> Run:
    deployment = await inn.deploy(function, entrypoint=f"endings.py:{function}")
    flow_run = await inn.client.create_flow_run_from_deployment(deployment, parameters=parameters)
    return Run(inn, str(flow_run.id))


async def test_what_would_end_a_process_ends_one_run(inn: Inn) -> None:
    """It fails, and is not taken up again; so does one whose file does so when it is loaded. All others go on."""
    other = await inn.start("visitor")
    await other.is_warm()
    raised = {
        "agent": "SystemExit(3)", "interrupt": "KeyboardInterrupt()", "its own": "OfItsOwn('it leaves')",
        "thread": "SystemExit(4)", "step": "SystemExit(4)", "gathered": "SystemExit(5)", "group": "sub-exception",
    }  # fmt: skip
    runs = [await start(inn, "leaver", how=how) for how in raised]

    async def fails(run: Run, error: str) -> None:
        row = await run.is_in(RunState.FAILED)
        assert error in row.error
        state = await run.is_shown(StateType.FAILED)
        assert error in (state.message or "")

    await asyncio.gather(*map(fails, runs, raised.values()))
    unfit = await inn.deploy("never", entrypoint="leaves_when_loaded.py:never")
    flow_run = await inn.client.create_flow_run_from_deployment(unfit)
    state = await Run(inn, str(flow_run.id)).is_shown(StateType.FAILED)
    assert "leaves_when_loaded.py:never raises SystemExit(7) when it is loaded" in (state.message or "")
    await other.signal("round-0", 5)
    assert await other.result() == 5
