"""What an approved call is about is as it was when people saw that call, also where a person has changed it."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel, Field
from pydantic_ai import Agent

from standby import agent
from standby.agents import run_agent
from standby.agents.transcript import read_threads
from standby.runs import current_run
from standby.states import CheckpointState
from tests.agents.conftest import Script, ask, call
from tests.fundamentals.conftest import Desk, Interrupted, Run
from tests.support.waiting import wait_until


class Letter(BaseModel):
    id: str = Field(default_factory=lambda: uuid4().hex)
    to: str


class Drafts:
    """An agent that sends letters, about drafts: ``etags`` are theirs as of now, by whom they are to."""

    def __init__(self) -> None:
        self.etags = {"ada": "a1", "ben": "b1"}
        self.dies = False
        self.sent: list[tuple[str, str]] = []
        self.script = Script(call("send", letter={"to": "ada"}), "done")
        thinker: Agent[None, str] = Agent(self.script.model, name="mailer")

        @thinker.tool_plain
        async def send(letter: Letter, text: str = "hello") -> str:
            self.sent.append((letter.to, text))
            return f"sent to {letter.to}"

        async def etag(arguments: dict[str, Any]) -> str:
            return self.etags[arguments["letter"]["to"]]

        async def recheck() -> None:
            if self.dies and await self.is_taken_in():
                raise Interrupted("The process dies.")

        @agent
        async def mailing() -> str | None:
            return (await run_agent(thinker, "write", scope=ask("send"), fresh={"send": etag}, recheck=recheck)).output

        self.flow = mailing

    async def is_taken_in(self) -> bool:
        run = current_run.get()
        assert run is not None
        entry = await run.ledger.checkpoints.find(run.id, "mailer/1.asks")
        return entry is not None and entry.state == CheckpointState.RECORDED

    async def answered(self, desk: Desk, **changes: Any) -> Run:
        """A run whose process dies when it has taken an approval in, with these changes of what was shown, and before
        it has gone on with it."""
        run = await desk.start(self.flow)
        [wait] = await run.open_waits()
        shown = json.loads(
            wait.evidence[wait.evidence.index("{") : wait.evidence.rindex("}") + 1].replace("\n> ", "\n")
        )
        shown["letter"]["to"] = changes.get("to", "ada")
        shown["text"] = changes.get("text", "hello")
        self.dies = True
        await run.answer({"approved": True, "arguments": json.dumps(shown) if changes else ""})
        with pytest.raises(Interrupted):
            await run.result()
        assert await desk.ledger.grants.of_run(run.id) == []
        self.dies = False
        return run


async def asked_again(run: Run) -> Any:
    async def found() -> Any:
        return next((wait for wait in await run.open_waits() if wait.key == "mailer/1.asks.2"), None)

    return await wait_until(found)


async def test_what_was_approved_as_shown_is_held_to_what_it_was_about_then(desk: Desk) -> None:
    """The id is made up, so the call is given what was shown; the draft changed while no process had the run."""
    drafts = Drafts()
    run = await drafts.answered(desk)
    drafts.etags["ada"] = "a2"
    assert await run.again() == "done"
    assert drafts.sent == []
    said = "Not called: what it is about has changed since it was approved."
    assert drafts.script.told() == [("send", said, "denied")]


async def test_changed_arguments_about_what_was_seen_are_not_asked_about_again(desk: Desk) -> None:
    drafts = Drafts()
    run = await drafts.answered(desk, text="hi")
    assert await run.again() == "done"
    assert drafts.sent == [("ada", "hi")]
    assert len(await run.waits()) == 1


@pytest.mark.parametrize("changes", [{"text": "hi"}, {"to": "ben", "text": "hi"}], ids=["changed", "another"])
async def test_changed_arguments_about_what_nobody_has_seen_are_asked_about_as_they_are(
    desk: Desk, changes: dict[str, str]
) -> None:
    """The draft is another than the one that was seen, or has changed while no process had the run."""
    drafts = Drafts()
    run = await drafts.answered(desk, **changes)
    drafts.etags |= {"ada": "a2"}
    to = changes.get("to", "ada")
    run.begin()
    wait = await asked_again(run)
    assert f'"to": "{to}"' in wait.evidence
    assert '"text": "hi"' in wait.evidence
    assert run.attempt is not None
    run.attempt.cancel()
    await asyncio.wait([run.attempt])
    run.begin()
    again = await asked_again(run)
    assert (again.id, again.opening, drafts.sent) == (wait.id, wait.opening, [])
    await run.answer({"approved": True}, key=wait.key, actor="ben")
    assert await run.result() == "done"
    assert drafts.sent == [(to, "hi")]
    [grant] = await desk.ledger.grants.of_run(run.id)
    assert (grant.wait_id, grant.approver) == (wait.id, "ben")
    [thread] = await read_threads(desk.ledger, run.id, await desk.ledger.checkpoints.journal(run.id))
    changed = thread["turns"][0]["calls"][0]["changed_to"]
    assert (changed["letter"]["to"], changed["text"]) == (to, "hi")


async def test_so_they_are_where_nothing_died_and_a_no_is_a_no(desk: Desk) -> None:
    drafts = Drafts()
    run = await desk.start(drafts.flow)
    changed = {"letter": {"id": "1", "to": "ben"}, "text": "hi"}
    await run.answer({"approved": True, "arguments": json.dumps(changed)})
    wait = await asked_again(run)
    drafts.etags["ben"] = "b2"
    await run.answer({"approved": True}, key=wait.key)

    async def anew() -> bool:
        return any(one.opening == 2 and "has changed" in one.refused for one in await run.open_waits())

    await wait_until(anew)
    await run.answer({"approved": False, "comment": "too late"}, key=wait.key, actor="ada")
    assert await run.result() == "done"
    assert drafts.sent == []
    assert drafts.script.told() == [("send", "A person refused this call. too late", "denied")]
    [thread] = await read_threads(desk.ledger, run.id, await desk.ledger.checkpoints.journal(run.id))
    assert thread["turns"][0]["calls"][0]["refused_by"] == "ada", "also of a call that was asked about once more"
