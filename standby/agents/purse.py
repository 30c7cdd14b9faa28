"""The purse of one ``run_agent`` that has started other agents, or that another has started.

What it is about to spend is set aside in the ledger before, in a transaction that looks at the limits of all agents
above it; what it has spent is written there before the journal has it. So a process that dies leaves too much behind
rather than too little, and the next attempt, which counts by the journal, puts it right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, TypeAdapter

from standby import clock
from standby.agents.budgets import Budget, Spent
from standby.agents.families import Member, Short, aside, left_in, short_in
from standby.errors import LedgerUnavailable, UsageError
from standby.ledger.purses import NoPurse, PurseRow
from standby.stops import Fenced

if TYPE_CHECKING:
    from standby.agents.thread import Thread

V = TypeVar("V")

log = logging.getLogger("standby.agents")

_spent: TypeAdapter[Spent] = TypeAdapter(Spent)


class Opened(BaseModel):
    """What the journal keeps of a purse."""

    id: str
    parent: str | None


class Purse:
    """``coming``: what was spent and the journal does not have yet."""

    def __init__(self, thread: Thread, opened: Opened) -> None:
        self._thread, self._opened = thread, opened
        self._one_at_a_time = asyncio.Lock()  # what is written last must be what was known last
        self.coming: dict[str, Spent] = {}

    @property
    def id(self) -> str:
        return self._opened.id

    @property
    def parent(self) -> str | None:
        return self._opened.parent

    async def draw(self, *, requests: int = 0, tool_calls: int = 0) -> Short | None:
        """Set aside what is about to be spent, together with the calls that are under way; or say why not."""
        before, asked = self._thread.calls, self._thread.calls_with(requests, tool_calls)
        self._thread.calls = asked

        def decide(family: Sequence[Member], now: datetime) -> tuple[Short | None, Spent]:
            short = short_in(family, family[-1], now, requests=requests, tool_calls=asked)
            return short, aside(family, 0, before) if short is not None else aside(family, requests, asked)

        short = await self._write(decide)
        if short is not None:
            self._thread.calls -= asked - before
        return short

    async def spend(self, key: str, spent: Spent) -> None:
        """Write down what a request or call has cost, before the journal has it. The call itself stays set aside."""
        self.coming[key] = replace(spent, tool_calls=0)
        await self._write(lambda family, _: (None, aside(family, 0, self._thread.calls)))

    async def close(self) -> None:
        """Nothing is under way any more."""
        self._thread.calls = 0
        await self._write(lambda *_: (None, Spent()))

    async def give_up(self) -> None:
        """The same where the agent ends by an error, which nothing here may hide. What is not written down stays set
        aside: too much rather than too little."""
        try:
            await self.close()
        except (LedgerUnavailable, UsageError, Fenced) as error:
            log.warning("What %s of run %s had set aside stays so: %s", self._thread.name, self._thread.run.id, error)

    async def left(self) -> Budget:
        """What may be handed on. From here on others can spend it."""
        return await self._write(
            lambda family, now: (left_in(family, family[-1], now), aside(family, 0, self._thread.calls))
        )

    async def _write(self, decide: Callable[[Sequence[Member], datetime], tuple[V, Spent]]) -> V:
        """Write down how far this one is. ``decide``, given the family with this one last, says what is under way."""
        thread = self._thread
        run, nothing = thread.run, _text(Spent())
        assert thread.beginning is not None

        def decided(rows: Sequence[PurseRow]) -> tuple[V, str]:
            verdict, under_way = decide([_member(row) for row in rows], clock.utcnow())
            return verdict, _text(under_way)

        async with self._one_at_a_time:
            mine = PurseRow(
                id=self.id, run_id=run.id, parent=self.parent, limits=thread.limits.model_dump_json(),
                spent=_text(sum(self.coming.values(), thread.spent)), under_way=nothing, began_at=thread.beginning.at,
            )  # fmt: skip
            try:
                drawn = await run.ledger.purses.draw(run.attempt, mine, decided)
            except NoPurse as error:
                raise UsageError(
                    f"Agent {thread.name!r} was given a scope whose spending counts to another agent, and this ledger "
                    "knows nothing of that one. Agents that start each other need one ledger, and what is handed on is "
                    "what `await current_scope()` returned."
                ) from error
        if drawn is None:
            run.stop()
        assert drawn is not None
        return drawn[0]


def _text(spent: Spent) -> str:
    return _spent.dump_json(spent).decode()


def _member(row: PurseRow) -> Member:
    return Member(
        row.id, row.run_id, row.parent, Budget.model_validate_json(row.limits), _spent.validate_json(row.spent),
        _spent.validate_json(row.under_way), row.began_at,
    )  # fmt: skip
