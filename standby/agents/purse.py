"""The purse of one ``run_agent`` that has started other agents, or that another has started.

What it is about to spend is set aside in the ledger before, in a transaction that looks at the limits of all agents
above it; what it has spent is written there before the journal has it. So a process that dies leaves too much behind
rather than too little, and the next attempt, which counts by the journal, puts it right.

What is handed on in a tool is handed on again by an attempt that comes there again: what those who have it spent is
theirs, and would be counted twice if it were taken off that as well. So the journal holds what was spent by then
(``NAME/1.left.2.1`` of the first time in the second call of a turn), and what is left of that is by the limits of now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, TypeAdapter

from standby import clock
from standby.agents.budgets import Budget, Spent
from standby.agents.families import Member, Short, aside, left_in, short_in, spent_in
from standby.errors import LedgerUnavailable, UsageError
from standby.ledger.purses import NoPurse, PurseRow
from standby.parts import Part, current_part
from standby.states import CheckpointState
from standby.steps import in_step
from standby.stops import Fenced

if TYPE_CHECKING:
    from standby.agents.thread import Thread

V = TypeVar("V")

log = logging.getLogger("standby.agents")

_spent: TypeAdapter[Spent] = TypeAdapter(Spent)
_by_then: TypeAdapter[dict[str, Spent]] = TypeAdapter(dict[str, Spent])

_LEFT = "?left"  # no step is called so


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
        self._handed_on: dict[str, dict[str, Spent]] = {}  # by this attempt: what was spent by then
        self._below: dict[str, str] | None = None  # the purses that earlier attempts have opened, by their keys

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
        """What may be handed on. From here on others can spend it. In a tool that is gone through again it is what it
        was at this place, by the limits of now."""
        inside = self._tool()
        place = self._place_in(inside) if inside is not None else None
        then = await self._spent_by_then(place) if place is not None else None
        but = await self._to_come(inside.key) if inside is not None and then is None else ()

        def decide(family: Sequence[Member], now: datetime) -> tuple[tuple[dict[str, Spent], Budget], Spent]:
            spent = spent_in(family, family[-1], now, but=but) if then is None else then
            return (spent, left_in(family, family[-1], now, spent)), aside(family, 0, self._thread.calls)

        spent, left = await self._write(decide)
        if place is not None and then is None:
            await self._thread.run.record(self._thread.place(place), _by_then.dump_json(spent).decode())
            self._handed_on[place] = spent
        return left

    def _tool(self) -> Part | None:
        """The call of a tool that this is asked in, if it is one that is gone through again in the next attempt."""
        inside = current_part.get()
        if inside is None or in_step() or not inside.key.startswith(self._thread.prefix):
            return None
        return inside

    def _place_in(self, inside: Part) -> str:
        turn, ordinal = inside.key.removeprefix(self._thread.prefix).split(".")[:2]
        inside.occurrences[_LEFT] += 1
        return f"{turn}.left.{ordinal}.{inside.occurrences[_LEFT]}"

    async def _spent_by_then(self, place: str) -> dict[str, Spent] | None:
        """What was spent when it was handed on here for the first time; None if it was not yet."""
        entry = self._thread.entry(place)
        if entry is None or entry.state != CheckpointState.RECORDED:
            return self._handed_on.get(place)
        return _by_then.validate_json(await self._thread.run.text_of(entry))

    async def _to_come(self, call: str | None = None) -> set[str]:
        """The purses of agents in the tools of this one that earlier attempts have started, and this one has not come
        to yet: nothing of theirs is under way. ``call``: of those in this one, by what stands before its keys."""
        run, prefix = self._thread.run, self._thread.prefix
        if self._below is None:
            opened = [entry for entry in run.unmet(prefix) if _is_purse(entry.key.removeprefix(prefix))]
            self._below = {one.key: Opened.model_validate_json(await run.text_of(one)).id for one in opened}
        if not self._below:
            return set()
        under = prefix if call is None else f"{call}/"
        return {self._below[one.key] for one in run.unmet(under) if one.key in self._below}

    async def _write(self, decide: Callable[[Sequence[Member], datetime], tuple[V, Spent]]) -> V:
        """Write down how far this one is. ``decide``, given the family with this one last, says what is under way."""
        thread = self._thread
        run, nothing = thread.run, _text(Spent())
        assert thread.beginning is not None
        to_come = await self._to_come()

        def decided(rows: Sequence[PurseRow]) -> tuple[V, str]:
            verdict, under_way = decide([_member(row, to_come) for row in rows], clock.utcnow())
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


def _member(row: PurseRow, to_come: Collection[str]) -> Member:
    under_way = Spent() if row.id in to_come else _spent.validate_json(row.under_way)
    return Member(
        row.id, row.run_id, row.parent, Budget.model_validate_json(row.limits), _spent.validate_json(row.spent),
        under_way, row.began_at,
    )  # fmt: skip


def _is_purse(rest: str) -> bool:
    """Whether the key, below an agent's, is of the purse of an agent in a tool of it: ``1.2.delegate/child/purse``. A
    step of a tool may be called like that, and is an even number of names down."""
    return rest.endswith("/purse") and rest.count("/") % 2 == 0
