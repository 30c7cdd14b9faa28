"""The thread of one ``run_agent``: what the journal holds of it, found with one look, and what is written to it.

Keys: ``NAME`` for the beginning, and below it ``NAME/3.model`` for the third model request, ``NAME/3.2.fetch`` for the
second tool call of its answer (``NAME/3.2.fetch.approved`` when people had to approve it), ``NAME/3.asks`` for what is
asked about them, ``NAME/end``. What a tool does as steps and waits of its own is below the call's key. Only the last
turn is gone through again after a wake; of the ones before it the messages are all that counts.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import TypeAdapter
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse

from standby import clock
from standby.agents.budgets import Budget, Spent
from standby.agents.forms import More, more_budget
from standby.agents.records import Beginning, Counted, Ending, Outcome, Turn
from standby.ledger.checkpoints import Entry
from standby.runs import AgentRun, Place
from standby.states import CheckpointState

_turns: TypeAdapter[list[Turn]] = TypeAdapter(list[Turn])
_calls: TypeAdapter[list[Counted]] = TypeAdapter(list[Counted])


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
        self.spent = Spent()
        self.granted = Budget()
        self.parts: dict[str, str] | None = None  # what the agent was made of last
        self.beginning: Beginning | None = None
        self.ending: Ending | None = None
        self._entries: dict[str, Entry] = {}

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

    def entry(self, rest: str) -> Entry | None:
        return self._entries.get(rest)

    async def outcome(self, rest: str) -> Outcome | None:
        """What a call came to, if that is recorded."""
        entry = self._entries.get(rest)
        if entry is None or entry.state != CheckpointState.RECORDED:
            return None
        return Outcome.model_validate_json(await self.run.text_of(entry))

    async def load(self) -> None:
        """Read the journal. Raises ``CheckpointDamaged``."""
        self._entries = self.run.take_over(self.prefix)
        texts: list[str] = []
        while (entry := self._entries.get(f"{len(texts) + 1}.model")) and entry.state == CheckpointState.RECORDED:
            texts.append(await self.run.text_of(entry))
        turns = _turns.validate_json(f"[{','.join(texts)}]")
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
        calls: list[str] = []
        for rest, entry in self._entries.items():
            await self._sort(rest, entry, calls)
        counted = [call for call in _calls.validate_json(f"[{','.join(calls)}]") if call.counts]
        self.spent = Spent(
            requests=len(turns),
            tool_calls=len(counted),
            tokens=sum(turn.tokens for turn in turns),
            money=sum((turn.money for turn in turns if turn.money is not None), Decimal(0)),
            unpriced=sum(turn.money is None for turn in turns),
            running=timedelta(seconds=sum(turn.seconds for turn in turns) + sum(call.seconds for call in counted)),
        )
        if (entry := self._entries.get("end")) is not None and entry.state == CheckpointState.RECORDED:
            self.ending = Ending.model_validate_json(await self.run.text_of(entry))

    async def _sort(self, rest: str, entry: Entry, calls: list[str]) -> None:
        """Count what was granted, and gather the texts of tool calls."""
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
        elif what.partition(".")[0].isdigit():
            calls.append(await self.run.text_of(entry))

    def count(self, outcome: Outcome) -> None:
        """One more tool call, if it is one."""
        if outcome.counts:
            self.spent += outcome.spent

    def grant(self, more: Budget) -> None:
        """A person has granted more."""
        mine = {name: (getattr(self.granted, name), getattr(more, name)) for name in Budget.model_fields}
        self.granted = Budget(**{name: (a + b) if a and b else a or b for name, (a, b) in mine.items()})

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


def more_of(what: str, text: str) -> Budget | None:
    """What was granted, from the checkpoint of the wait that asked for it; None if nothing was."""
    stored = json.loads(text)[""]
    return more_budget(what, More.model_validate_json(stored["answer"])) if "answer" in stored else None
