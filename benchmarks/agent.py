"""What durability costs an agent that thinks: a scripted model, so that what is timed is the machinery.

One run is two model requests and one tool call, in a process that is warm. Beside it, in the same run and turn about:
plain pydantic-ai, and its own wrapper for Prefect (`PrefectDurability`, tasks cached in a local folder) and for DBOS
(`DBOSDurability`, SQLite) where the package `dbos` is installed. A further request and a further call are what runs
with 20 more of them cost more, for each.

Resuming is timed from the start of an attempt (the flow run is read, and its flow called) until the model is asked for
the next request, after 10, 100 and 500 turns of one request and one tool call: of it, the thread alone is from the
query for the journal on. Beside that, what plain pydantic-ai takes to its next request with such a history that is in
memory already, for which nothing is read. The median of 9 attempts.
"""

from __future__ import annotations

import gc
import importlib.util
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID

from prefect import flow, get_client
from prefect.flow_engine import run_flow_async
from prefect.states import Scheduled
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import UsageLimits

from benchmarks.blocks import beside, timed
from benchmarks.figures import Figure, Skipped, of_blocks
from benchmarks.ledgers import KINDS, NoDatabase, ledger
from benchmarks.statements import Statements
from standby import agent
from standby.agents import AgentScope, Permission, Rule, run_agent

NAME = "agent"
BLOCKS, SIZE = 10, 10
PREFECT_SIZE = 2
MORE = 20
TURNS = (10, 100, 500)
RESUMES = 9
NO_LIMIT = UsageLimits(request_limit=None)

SCOPE = AgentScope(tools=(Rule(tool="look", permission=Permission.ALLOW),))


class NotYet(Exception):
    """Fails an attempt where the model would be asked, so that there is another one."""


class Model:
    """Asks for ``calls`` tool calls at once in each of ``turns`` answers, then says that it is done."""

    def __init__(self, turns: int = 1, calls: int = 1) -> None:
        self.turns, self.calls = turns, calls
        self.stop_at: int | None = None
        self.asked_at = 0.0

    def __call__(self, messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        done = sum(isinstance(message, ModelResponse) for message in messages)
        if done == self.stop_at:
            self.asked_at = perf_counter()
            raise NotYet
        if done >= self.turns:
            return ModelResponse(parts=[TextPart("done")])
        # The same question twice would be answered from Prefect's cache.
        asked = getattr(messages[0].parts[-1], "content", "")
        calls = [ToolCallPart("look", {"n": n, "asked": asked}, tool_call_id=f"{done}-{n}") for n in range(self.calls)]
        return ModelResponse(parts=list(calls))


async def look(n: int, asked: str) -> str:
    return "two hundred characters of what was found there. " * 4 + str(n)


def thinker(model: Model, *capabilities: Any) -> Agent[None, str]:
    return Agent(FunctionModel(model), name="thinker", tools=[look], capabilities=list(capabilities))


def ours(model: Model) -> Callable[[int], Awaitable[Any]]:
    mine = thinker(model)
    return lambda number: run_agent(mine, f"go {number}", scope=SCOPE)


def plain(model: Model) -> Callable[[int], Awaitable[Any]]:
    return plain_of(thinker(model))


def plain_of(mine: Agent[None, str]) -> Callable[[int], Awaitable[Any]]:
    return lambda number: mine.run(f"go {number}", usage_limits=NO_LIMIT)


@agent
async def standby_runs(turns: int = 1, calls: int = 1, size: int = SIZE) -> list[float]:
    return await timed(ours(Model(turns, calls)), blocks=BLOCKS, size=size)


async def plain_runs(turns: int = 1, calls: int = 1, size: int = SIZE) -> list[float]:
    return await timed(plain(Model(turns, calls)), blocks=BLOCKS, size=size)


@flow
async def prefect_runs() -> list[float]:
    from pydantic_ai.durable_exec.prefect import PrefectDurability

    mine = thinker(Model(), PrefectDurability())
    return await timed(plain_of(mine), blocks=BLOCKS, size=PREFECT_SIZE)


async def measure(folder: Path) -> AsyncIterator[Figure | Skipped]:
    n = BLOCKS * SIZE
    for kind in KINDS:
        gc.collect()  # of what the databases before have left, too
        gc.freeze()
        try:
            async with ledger(kind, folder):
                mine, bare, stock = await beside(standby_runs, plain_runs, prefect_runs)
                yield of_blocks(NAME, "run", kind, mine, n=n).beside("plain pydantic-ai", statistics.median(bare))
                yield of_blocks(NAME, "run", kind, mine, n=n).beside("PrefectDurability", statistics.median(stock))
                if (dbos := await _dbos(folder)) is not None:
                    yield of_blocks(NAME, "run", kind, mine, n=n).beside("DBOSDurability", statistics.median(dbos))
                async for figure in _further(kind):
                    yield figure
                async for figure in _resuming(kind):
                    yield figure
        except NoDatabase as reason:
            yield Skipped(NAME, kind, str(reason))


async def _further(kind: str) -> AsyncIterator[Figure]:
    """What one more request, and one more call, cost over plain pydantic-ai."""
    sizes = {"size": 1}
    few, few_plain = await beside(lambda: standby_runs(**sizes), lambda: plain_runs(**sizes))
    calls, calls_plain = await beside(
        lambda: standby_runs(calls=1 + MORE, **sizes), lambda: plain_runs(calls=1 + MORE, **sizes)
    )
    turns, turns_plain = await beside(
        lambda: standby_runs(turns=1 + MORE, **sizes), lambda: plain_runs(turns=1 + MORE, **sizes)
    )
    a_call, a_call_plain = _each(calls, few), _each(calls_plain, few_plain)
    a_turn, a_turn_plain = _each(turns, few), _each(turns_plain, few_plain)
    yield of_blocks(NAME, "a further call", kind, a_call, n=BLOCKS * MORE).beside(
        "plain pydantic-ai", statistics.median(a_call_plain)
    )
    yield of_blocks(NAME, "a further request and call", kind, a_turn, n=BLOCKS * MORE).beside(
        "plain pydantic-ai", statistics.median(a_turn_plain)
    )


def _each(many: list[float], few: list[float]) -> list[float]:
    base = statistics.median(few)
    return [(one - base) / MORE for one in many]


async def _dbos(folder: Path) -> list[float] | None:
    if importlib.util.find_spec("dbos") is None:
        return None
    DBOS: Any = import_module("dbos").DBOS
    from pydantic_ai.durable_exec.dbos import DBOSDurability

    DBOS(config={"name": "benchmark", "system_database_url": f"sqlite:///{folder / 'dbos.sqlite'}"})
    mine = thinker(Model(), DBOSDurability())
    DBOS.launch()

    async def once(number: int) -> str:
        return (await mine.run(f"go {number}", usage_limits=NO_LIMIT)).output

    work = DBOS.workflow()(once)

    try:
        return await timed(work, blocks=BLOCKS, size=SIZE)
    finally:
        DBOS.destroy()


_model = Model()


@agent
async def long_thinker() -> str | None:
    return (await run_agent(thinker(_model), "go", scope=SCOPE)).output


async def _resuming(kind: str) -> AsyncIterator[Figure]:
    first: float | None = None
    for turns in TURNS:
        global _model
        _model = Model(turns=turns + 1)
        _model.stop_at = turns
        async with get_client() as client:
            flow_run = await client.create_flow_run(long_thinker, parameters={})
        await _attempt(flow_run.id)
        whole, alone = [], []
        for _ in range(RESUMES):
            with Statements() as sent:
                started = await _attempt(flow_run.id)
            journal = next(at for at, statement in sent if "FROM checkpoints" in statement)
            whole.append((_model.asked_at - started) * 1000)
            alone.append((_model.asked_at - journal) * 1000)
        figure = of_blocks(NAME, f"resume after {turns} turns", kind, whole, n=RESUMES)
        first = first or figure.value
        yield figure.beside(f"after {TURNS[0]} turns", first)
        thread = of_blocks(NAME, f"of it, the thread of {turns} turns", kind, alone, n=RESUMES)
        yield thread.beside("plain pydantic-ai", statistics.median([await _continued(turns) for _ in range(RESUMES)]))


async def _continued(turns: int) -> float:
    """Milliseconds that plain pydantic-ai takes from a history of so many turns to the next request."""
    model = Model(turns=turns)
    bare = thinker(model)
    history = (await bare.run("go", usage_limits=NO_LIMIT)).all_messages()[:-1]
    model.stop_at = turns
    started = perf_counter()
    with suppress(NotYet):
        await bare.run(message_history=history, usage_limits=NO_LIMIT)
    return (model.asked_at - started) * 1000


async def _attempt(run_id: UUID) -> float:
    """What Retry does in Prefect: the failed run is scheduled, and read anew by what runs it; when that began."""
    async with get_client() as client:
        await client.set_flow_run_state(run_id, Scheduled())
        started = perf_counter()
        flow_run = await client.read_flow_run(run_id)
        with suppress(NotYet):
            await run_flow_async(long_thinker, flow_run=flow_run, parameters={})
    return started
