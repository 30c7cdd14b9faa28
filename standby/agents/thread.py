"""The thread of one ``run_agent``: what the journal holds of it, found with one look, and what is written to it.

Keys: ``NAME`` for the beginning, and below it ``NAME/3.model`` for the third model request, ``NAME/3.2.fetch`` for the
second tool call of its answer (``NAME/3.2.fetch.approved`` when people had to approve it), ``NAME/3.tried.2.1`` for
what that had cost when it ended by an error, or parked (``NAME/3.tried.0.1``: the next model request, of which no
answer was accepted), ``NAME/3.asks`` for what is asked about them, ``NAME/end``, and ``NAME/purse`` where what it
spends counts together with others.
What a tool does as steps and waits of its own is below the call's key. Only the last turn is gone through again after a
wake; of the ones before it the messages are all that counts.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, ToolCallPart

from standby import clock
from standby.agents.budgets import Budget, Spent, sum_of
from standby.agents.costs import Meter
from standby.agents.forms import more_of
from standby.agents.purse import Opened, Purse
from standby.agents.records import Beginning, Counted, Ending, Outcome, Result, Turn, counted_of, turns_of
from standby.errors import LedgerUnavailable
from standby.journal import CUT_OFF
from standby.ledger.checkpoints import Entry
from standby.ledger.text import digest_of
from standby.places import Place
from standby.runs import AgentRun
from standby.states import CheckpointKind, CheckpointState
from standby.stops import Fenced
from standby.values import Codec

log = logging.getLogger("standby.agents")

_ANYTHING: Codec[Any] = Codec(lambda: Any)


class Thread:
    """``turn`` counts model requests that are done; ``messages`` is the history up to and with the last response."""

    def __init__(self, run: AgentRun, name: str, *, visible: bool) -> None:
        self.run, self.name = run, name
        self.visible = visible
        self.turn = 0
        self.recorded = 0  # turns that the journal held when this attempt began
        self.messages: list[ModelMessage] = []
        self.last: Turn | None = None  # the one that is gone through again
        self.answers: list[ModelResponse] = []  # of the turns that the journal held
        self.made: dict[
            str, Counted
        ] = {}  # calls and tries that the journal held, by their keys, until they are counted
        self.spent = Spent()
        self.budget = Budget()  # of the scope as it is now
        self.granted = Budget()
        self.parts: dict[str, str] | None = None  # what the agent was made of last
        self.beginning: Beginning | None = None
        self.ending: Ending | None = None
        self.calls = 0  # that were found to have room, and are not counted yet
        self.outcomes: dict[str, Outcome] = {}  # what calls of the last answer came to in this attempt, by their keys
        # Calls that have acted in this attempt, by their keys: what is to be counted if nothing is kept of one.
        self.acted: dict[str, Counted | None] = {}
        self.cut: dict[int, str] = {}  # calls that have acted, were cut off and have not come back yet: their keys
        self.under_way: set[int] = set()  # calls in the own task
        self.gone: set[int] = set()  # calls of the last answer that the agent has gone on from
        self.purse: Purse | None = None  # where what it spends counts together with others
        self.within: tuple[Thread, Meter] | None = None  # the agent that has it in a tool, and the meter of that
        self._opening = asyncio.Lock()
        self._entries: dict[str, Entry] = {}
        self._tried: set[str] = set()  # by this attempt
        self._open: set[str] = set()  # the waits of its own that earlier ones have left

    @property
    def prefix(self) -> str:
        return f"{self.name}/"

    def place(self, rest: str) -> Place:
        """A place below the thread's; none has a position, for the answers of the model say what comes."""
        return Place(self.prefix + rest, None)

    def call_key(self, ordinal: int, tool: str, *, approved: bool = False) -> str:
        """Of the call with this number (from 1) in the last answer, below the thread's key."""
        name = "".join(char if char not in "#/?" else ":" for char in tool)
        return f"{self.turn}.{ordinal}.{name}{'.approved' if approved else ''}"

    def part_key(self, ordinal: int, tool: str, *, approved: bool) -> str:
        """What stands before the keys of the steps and waits of a call: it keeps that when it is asked about after it
        has begun."""
        mine, before = (self.prefix + self.call_key(ordinal, tool, approved=how) for how in (approved, False))
        begun = [key for key in (mine, before) if any(one.startswith(f"{key}/") for one in self.run.journal)]
        return begun[0] if begun else mine

    def entry(self, rest: str) -> Entry | None:
        return self._entries.get(rest)

    async def outcome(self, rest: str) -> Outcome | None:
        """What a call came to, if that is recorded."""
        if (known := self.outcomes.get(rest)) is not None:
            return known
        entry = self._entries.get(rest)
        if entry is None or entry.state != CheckpointState.RECORDED:
            return None
        return Outcome.model_validate_json(await self.run.text_of(entry))

    async def load(self) -> None:
        """Read the journal. Raises ``CheckpointDamaged``."""
        self._entries = self.run.take_over(self.prefix)
        waiting = (CheckpointKind.WAIT, CheckpointState.INTENDED)
        self._open = {
            rest for rest, one in self._entries.items() if "/" not in rest and (one.kind, one.state) == waiting
        }
        texts: list[str] = []
        while (entry := self._entries.get(f"{len(texts) + 1}.model")) and entry.state == CheckpointState.RECORDED:
            texts.append(await self.run.text_of(entry))
        turns = turns_of(texts)
        self.recorded = len(turns)
        for number, turn in enumerate(turns, start=1):
            if turn.whole:
                self.messages.clear()
            self.messages += turn.messages
            self.answers.append(self.response())
            self.last = turn
            self.parts = turn.parts or self.parts
            if number < len(turns):
                self.turn = number
        calls: dict[str, str] = {}
        for rest, entry in self._entries.items():
            await self._sort(rest, entry, calls)
        counted = counted_of(list(calls.values()))
        self.made = dict(zip(calls, counted, strict=True))
        self.spent += Turn.spent_on(turns) + Counted.spent_on(counted)
        if (entry := self._entries.get("end")) is not None and entry.state == CheckpointState.RECORDED:
            self.ending = Ending.model_validate_json(await self.run.text_of(entry))
        if (entry := self._entries.get("purse")) is not None and entry.state == CheckpointState.RECORDED:
            self.purse = Purse(self, Opened.model_validate_json(await self.run.text_of(entry)))

    async def open_purse(self, parent: str | None = None) -> Purse:
        """From here on what it spends counts together with what others do; to ``parent`` as well, if another started
        it. The journal knows first: nobody can spend from a purse that a later attempt would not know."""
        async with self._opening:
            if self.purse is None:
                opened = Opened(id=uuid4().hex, parent=parent)
                await self.run.record(self.place("purse"), opened.model_dump_json())
                self.purse = Purse(self, opened)
        return self.purse

    async def _sort(self, rest: str, entry: Entry, calls: dict[str, str]) -> None:
        """Count what was granted, and gather the texts of tool calls by their keys."""
        turn, _, what = rest.partition(".")
        if "/" in rest:
            call = self._entries.get(rest.partition("/")[0])
            done = call is not None and call.state == CheckpointState.RECORDED
            if done or (turn.isdigit() and int(turn) < self.recorded):
                self.run.pass_by(self.prefix + rest)  # of a call or a turn that is not gone through again
            return
        if entry.state != CheckpointState.RECORDED or not turn.isdigit():
            return
        if what.startswith("more."):
            granted = more_of(what.split(".")[1], await self.run.text_of(entry))
            if granted is not None:
                self.grant(granted)
        elif what.partition(".")[0] == "results":
            self.spent += Spent(tool_calls=len(await self._delivered(turn, entry)))
        elif what.startswith("tried.") or what.partition(".")[0].isdigit():
            calls[rest] = await self.run.text_of(entry)

    async def _delivered(self, turn: str, entry: Entry) -> list[str]:
        """The numbers of the calls that others have delivered the results of, and that no tool here has begun."""
        begun = {rest.split(".")[1] for rest in self._entries if rest.startswith(f"{turn}.") and "/" not in rest}
        return [number for number in json.loads(await self.run.text_of(entry)) if number not in begun]

    async def last_calls(self, turn: int) -> list[tuple[ToolCallPart, Outcome | None]]:
        """The calls of the last answer, that of this turn, and what each has come to by now, if to anything."""
        self.turn = turn
        for entry in await self.run.ledger.checkpoints.journal(self.run.id):
            if entry.key.startswith(self.prefix):
                self._entries[entry.key.removeprefix(self.prefix)] = entry
        return [
            (
                call,
                await self.outcome(self.call_key(n, call.tool_name, approved=True))
                or await self.outcome(self.call_key(n, call.tool_name)),
            )
            for n, call in enumerate(self.response().tool_calls, start=1)
        ]

    def drop(self, rest: str) -> None:
        """What a call has failed by in an earlier attempt counts no more: it is made again."""
        self._entries.pop(rest, None)

    async def is_done(self, ordinal: int, tool: str) -> bool:
        """Whether a call of the last answer has come to what it comes to, and is counted."""
        if await self.outcome(self.call_key(ordinal, tool, approved=True)) is not None:
            return True
        outcome = await self.outcome(self.call_key(ordinal, tool))
        entries = (self.entry(self.call_key(ordinal, tool, approved=approved)) for approved in (True, False))
        if any(entry is not None and entry.state == CheckpointState.FAILED for entry in entries):
            return await self._was_counted(ordinal)  # a replay raises the error again, or is cut off once more
        if outcome is not None:
            return outcome.result is not Result.UNAPPROVED
        results = [entry for rest, entry in self._entries.items() if _is_results(rest, self.turn)]
        texts = [await self.run.text_of(one) for one in results if one.state == CheckpointState.RECORDED]
        return any(str(ordinal) in json.loads(text) for text in texts)

    async def _was_counted(self, ordinal: int) -> bool:
        """Whether a call of the last answer was one that ended by an error, or that was cut off."""
        tries = [entry for rest, entry in self._entries.items() if rest.startswith(f"{self.turn}.tried.{ordinal}.")]
        return any(one.counts for one in counted_of([await self.run.text_of(entry) for entry in tries]))

    async def spend(self, rest: str, spent: Spent) -> None:
        """Before the journal has it: what a request or call has cost, for those with whom it counts together."""
        if self.purse is not None:
            await self.purse.spend(rest, spent)

    def count_turn(self, rest: str, turn: Turn) -> None:
        """One more model request."""
        self.spent += turn.spent
        self._counted(rest, turn.seconds)
        self.outcomes.clear()
        self.gone.clear()

    def count(self, rest: str, outcome: Counted) -> None:
        """One more tool call, if it is one. The calls in it were counted when they were made."""
        self.spent += outcome.alone
        self._counted(rest, outcome.seconds)
        if isinstance(outcome, Outcome):
            self.outcomes[rest] = outcome
        if isinstance(outcome, Outcome) or outcome.counts:
            self.calls = max(self.calls - 1, 0)

    def _counted(self, rest: str, seconds: float) -> None:
        if self.purse is not None:
            self.purse.coming.pop(rest, None)
        self._took(seconds)

    def _took(self, seconds: float) -> None:
        """So long this one, or one below it, was at work: where that counts to the agent that has it in a tool, it is
        no part of that tool's time."""
        if self.within is None or self.purse is None:
            return
        outer, meter = self.within
        if outer.purse is not None and outer.purse.id == self.purse.parent:
            meter.others += seconds
            outer._took(seconds)

    def calls_with(self, requests: int, tool_calls: int) -> int:
        """How many calls are under way with these; before a model request those of the turn before are over."""
        return 0 if requests else max(self.calls, tool_calls)

    async def tried(self, ordinal: int, cost: Counted) -> None:
        """A call ends here, by an error or a park, and will be made again: write down what it has cost so far. So does
        the next model request (0)."""
        rest = self._next_try(ordinal)
        await self.spend(rest, cost.alone)
        await self.run.record(self.place(rest), cost.model_dump_json())
        self.count(rest, cost)

    async def cut_off(self, ordinal: int, cost: Counted) -> None:
        """The same where the attempt ends in the call, if it has the run by then and the ledger takes it."""
        rest, run, text = self._next_try(ordinal), self.run, cost.model_dump_json()
        if run.fenced:
            return
        try:
            await self.spend(rest, cost.alone)
            written = await self._write(rest, CheckpointState.RECORDED, text)
        except (LedgerUnavailable, Fenced) as error:
            log.warning("What call %s of run %s had cost is lost: %s", rest, run.id, error)
            return
        if written:
            self.count(rest, cost)

    async def came_back(self, ordinal: int, *, is_told: bool) -> None:
        """A call comes back from the hooks around it. If these cut it off while it acted, it is counted. Where the
        model is told something of it (``is_told``) that is what it comes to: a replay cuts it off there once more."""
        key = self.cut.pop(ordinal, None)
        if key is None:
            return
        cost = self.acted.pop(key, None)
        self.run.failures.forget(self.prefix + key)
        if is_told:
            outcome = Outcome(**cost.model_dump()) if cost is not None else None
            if outcome is not None and await self._write(key, CheckpointState.RECORDED, outcome.model_dump_json()):
                self.count(key, outcome)
                return
            # It was cut off from what stands there, or from its error, or a hook has done more since.
            await self._write(key, CheckpointState.FAILED, CUT_OFF)
        if cost is not None:
            await self.in_vain(ordinal, key, cost, Result.CUT_OFF if is_told else Result.FAILED)

    async def in_vain(self, ordinal: int, rest: str, cost: Counted, result: Result) -> None:
        """A call has acted, and nothing is kept of what it has come to: it is counted all the same."""
        self._counted(rest, 0)
        await self.tried(ordinal, cost.model_copy(update={"result": result}))

    async def _write(self, rest: str, state: CheckpointState, text: str) -> bool:
        """Write down what stands at no place in the code. False where something does already, or the run is lost."""
        run, kept = self.run, {"value": text, "digest": digest_of(text)}
        return await run.ledger.checkpoints.write(run.id, run.attempt, self.prefix + rest, None, state, **kept)

    def _next_try(self, ordinal: int) -> str:
        number = 1
        while (rest := f"{self.turn}.tried.{ordinal}.{number}") in self._entries or rest in self._tried:
            number += 1
        self._tried.add(rest)
        return rest

    def left_over(self, ordinal: int | None = None) -> list[Entry]:
        """What the journal holds below the calls of an answer, or below one call, and nobody has asked for."""
        under = self.prefix if ordinal is None else f"{self.prefix}{self.turn}.{ordinal}."
        return [entry for entry in self.run.unmet(under) if "/" in entry.key.removeprefix(self.prefix)]

    def set_aside(self, ordinal: int | None = None) -> None:
        """Before people are asked whether it goes on, or a call does: only then are calls gone through, or left out."""
        for entry in self.left_over(ordinal):
            self.run.set_aside(entry.key)

    async def leave_out(self, ordinal: int | None = None) -> list[str]:
        """Pass by what such calls have written: they are not gone through again. Only in the own task.

        Whether a ``once`` step among it happened that was under way is asked first. Returns the keys of those that did.
        """
        left = self.left_over(ordinal)
        for entry in left:
            self.run.pass_by(entry.key)
        happened: list[str] = []
        for entry in left:
            if entry.state != CheckpointState.INTENDED:
                continue
            if entry.kind == CheckpointKind.WAIT:
                if not await self.run.ledger.waits.close(self.run.id, self.run.attempt, entry.key):
                    self.run.stop()
            elif await self._happened(entry):
                happened.append(entry.key)
        return happened

    async def close_left(self, rest: str, *, but: str = "") -> None:
        """Close the questions of an earlier attempt whose keys begin so, ``but`` this one: this attempt has gone on
        without them, and nothing comes of an answer."""
        for key in sorted(key for key in self._open if key.startswith(rest) and key != but):
            await self.close_one(key)

    async def close_one(self, rest: str) -> None:
        """Close the question of an earlier attempt that has this key, if one has left it open."""
        if rest not in self._open:
            return
        self._open.discard(rest)
        if not await self.run.ledger.waits.close(self.run.id, self.run.attempt, self.prefix + rest):
            self.run.stop()

    async def _happened(self, entry: Entry) -> bool:
        assert self.run.ask_outcome is not None
        text = await self.run.ask_outcome(entry.key, entry.attempt, _ANYTHING)
        if text is not None:
            await self.run.record(Place(entry.key, None), text)
        return text is not None

    def grant(self, more: Budget) -> None:
        """A person has granted more."""
        mine = {name: (getattr(self.granted, name), getattr(more, name)) for name in Budget.model_fields}
        self.granted = Budget(**{name: sum_of(a, b) if a and b else a or b for name, (a, b) in mine.items()})

    @property
    def limits(self) -> Budget:
        """Of the scope, and what people granted on top."""
        return self.budget.raised(self.granted)

    def spent_now(self) -> Spent:
        """With the time since the beginning."""
        return self.spent_at(clock.utcnow())

    def spent_at(self, moment: datetime) -> Spent:
        began = self.beginning.at if self.beginning is not None else moment
        return replace(self.spent, wall=max(moment - began, timedelta(0)))

    def history(self) -> list[ModelMessage]:
        """What pydantic-ai goes on from: everything before the last response, which it is given once more."""
        if self.last is None:
            return []
        messages = self.messages[:-1]
        # A response that was not to a request (it cannot be, in a journal of ours) would be answered by nobody.
        assert isinstance(messages[-1], ModelRequest)
        return messages

    def response(self) -> ModelResponse:
        """The last response."""
        last = self.messages[-1]
        assert isinstance(last, ModelResponse)
        return last


def _is_results(rest: str, turn: int) -> bool:
    """Whether the key is of what others deliver for this turn: ``3.results``, ``3.results.2``."""
    return "/" not in rest and rest.split(".")[:2] == [str(turn), "results"]
