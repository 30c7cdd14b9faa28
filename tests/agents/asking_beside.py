"""An agent that asks a person while another tool of it fails, in runs that are suspended without Prefect."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability

from standby.agents import ask_human
from standby.ledger import Ledger
from standby.runs import current_run
from standby.states import Door, Outcome
from tests.agents.bench import Bench, BenchRun
from tests.agents.conftest import Script, call
from tests.support.waiting import wait_until


async def asked(ledger: Ledger) -> list[Any]:
    """The waits of the run that is executing, once it has opened one."""
    run = current_run.get()
    assert run is not None
    return await wait_until(lambda: ledger.waits.of_run(run.id))


async def answer(ledger: Ledger, wait: Any, said: Any = {"answer": "blue"}) -> bool:  # noqa: B006 - only read
    """Whether this is the answer to it."""
    settled = await ledger.waits.settle(
        wait.id, outcome=Outcome.ANSWERED, answer=json.dumps(said), door=Door.TERMINAL, actor="ada"
    )
    return settled is not None and settled.won


def asking_beside(
    bench: Bench, fail: Callable[[], Awaitable[str]], *hooks: AbstractCapability[None]
) -> tuple[Script, Agent[None, str]]:
    """An agent that asks a person, and beside that calls what may fail when the question is open."""
    script = Script([call("ask_human", question="Which?"), call("check")], "done")
    thinker: Agent[None, str] = Agent(script.model, name="thinker", tools=[ask_human()], capabilities=list(hooks))

    @thinker.tool_plain
    async def check() -> str:
        await asked(bench.ledger)
        return await fail()

    return script, thinker


async def states(run: BenchRun) -> dict[str, str]:
    return {wait.key: wait.state for wait in await run.bench.ledger.waits.of_run(run.id)}
