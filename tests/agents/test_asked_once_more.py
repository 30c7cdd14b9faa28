"""A call that was asked about in more than one wait is as the last one decided, wherever an attempt ends."""

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic_ai import Agent

from standby import agent, faults
from standby.agents import AgentScope, Asking, run_agent
from standby.ledger.grants import Grants
from tests.agents.conftest import Script, ask, call
from tests.agents.test_fresh_approvals import asked_again
from tests.fundamentals.conftest import Desk, Interrupted, Run
from tests.support.waiting import wait_until

FIRST, SECOND, THIRD = "mailer/1.asks", "mailer/1.asks.2", "mailer/1.asks.3"
TO_BEN = {"approved": True, "arguments": json.dumps({"to": "ben"})}
NO = {"approved": False, "comment": "not that"}


class Stock:
    """An agent that sends what is in stock for somebody. A person sees a call about ada, and changes it to ben."""

    def __init__(self) -> None:
        self.about = {"ada": "in stock", "ben": "sold out", "cy": "on its way"}
        self.sent: list[str] = []
        self.within: timedelta | None = None
        self.dies_in_call = False
        self.script = Script(call("send", to="ada"), "done")
        self.flow = self.with_default("hello")

    def with_default(self, words: str) -> Any:
        """Its code, with this default of what it says."""
        thinker: Agent[None, str] = Agent(self.script.model, name="mailer")

        @thinker.tool_plain
        async def send(to: str, text: str = words) -> str:
            self.sent.append(to if text == "hello" else f"{to}: {text}")
            if self.dies_in_call:
                self.dies_in_call = False
                raise Interrupted("The process dies.")
            return "sent"

        async def scope() -> AgentScope:
            return ask("send", asking=Asking(within=self.within))

        async def about(arguments: dict[str, Any]) -> str:
            return self.about[arguments["to"]]

        @agent
        async def mailing() -> str | None:
            return (await run_agent(thinker, "write", scope=scope, fresh={"send": about})).output

        return mailing

    async def asked_about_ben(self, desk: Desk) -> Run:
        """Its run, which asks about the call as it was changed."""
        run = await desk.start(self.flow)
        await run.answer(TO_BEN, key=FIRST)
        await asked_again(run)
        return run

    def told(self) -> list[Any]:
        return [content for _, content, _ in self.script.told()]


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``dying(point, times)``: the process dies when it comes there, for the first time or so many. ``granted`` is
    where an approval has been written down."""

    def dies_at(point: str, times: int = 1) -> None:
        left = [times]

        def reached(at: str) -> None:
            left[0] -= at == point
            if not left[0]:
                faults.set_hook(None)
                raise Interrupted("The process dies.")

        faults.set_hook(reached)

    give = Grants.give

    async def given(*args: Any) -> bool:
        done = await give(*args)
        faults.reach("granted")
        return done

    monkeypatch.setattr(Grants, "give", given)
    yield dies_at
    faults.set_hook(None)


async def cancelled(run: Run) -> None:
    assert run.attempt is not None
    run.attempt.cancel()
    await asyncio.wait([run.attempt])


async def opened(run: Run, key: str, opening: int = 1) -> Any:
    async def found() -> Any:
        waits = await run.open_waits()
        return next((wait for wait in waits if (wait.key, wait.opening) == (key, opening)), None)

    return await wait_until(found)


async def keys(run: Run) -> list[str]:
    return [wait.key for wait in await run.waits()]


@pytest.mark.parametrize(
    ("point", "now"),
    [("wait.consumed", "in stock"), ("wait.consumed", "recalled"), ("granted", "in stock"), ("granted", "sold out")],
)
async def test_a_no_stays_a_no_whatever_it_is_about_by_then(desk: Desk, dying: Any, point: str, now: str) -> None:
    """Also where that is what was shown when the call was about somebody else."""
    stock = Stock()
    run = await stock.asked_about_ben(desk)
    dying(point)
    await run.answer(NO, key=SECOND)
    with pytest.raises(Interrupted):
        await run.result()
    stock.about["ben"] = now
    assert await run.again() == "done"
    assert stock.sent == []
    assert stock.told() == ["A person refused this call. not that"]
    assert await keys(run) == [FIRST, SECOND]
    assert await desk.ledger.grants.of_run(run.id) == []


async def test_so_does_that_nobody_has_answered_in_time(desk: Desk, dying: Any) -> None:
    stock = Stock()
    run = await desk.start(stock.flow)
    await opened(run, FIRST)
    stock.within = timedelta(milliseconds=50)
    dying("wait.consumed", 2)
    await run.answer(TO_BEN, key=FIRST)
    with pytest.raises(Interrupted):
        await run.result()
    stock.about["ben"] = "in stock"
    assert await run.again() == "done"
    assert stock.sent == []
    assert stock.told() == ["A person refused this call. Nobody answered in time."]
    assert await keys(run) == [FIRST, SECOND]


@pytest.mark.parametrize(("point", "approved"), [("wait.opened", False), ("wait.parked", False), ("wait.parked", True)])
async def test_one_that_is_open_is_waited_for_and_is_about_what_is_there_by_then(
    desk: Desk, dying: Any, point: str, approved: bool
) -> None:
    """An answer to what it was about before is refused, whatever it is."""
    stock = Stock()
    dying(point, 2)
    run = await desk.start(stock.flow)
    await run.answer(TO_BEN, key=FIRST)
    with pytest.raises(Interrupted):
        await run.result()
    stock.about["ben"] = "in stock"
    run.begin()
    await opened(run, SECOND, 2)
    await run.answer({"approved": approved}, key=SECOND)
    anew = await opened(run, SECOND, 3)
    assert "has changed" in anew.refused
    assert stock.sent == []
    await run.answer({"approved": approved}, key=SECOND, actor="cy")
    assert await run.result() == "done"
    assert stock.sent == (["ben"] if approved else [])
    assert [grant.approver for grant in await desk.ledger.grants.of_run(run.id)] == (["cy"] if approved else [])
    assert await keys(run) == [FIRST, SECOND]


@pytest.mark.parametrize("point", ["wait.consumed", "granted", "in the call"])
async def test_a_yes_is_good_for_what_it_was_said_of(desk: Desk, dying: Any, point: str) -> None:
    stock = Stock()
    run = await stock.asked_about_ben(desk)
    stock.dies_in_call = point == "in the call"
    dying(point)
    await run.answer({"approved": True}, key=SECOND, actor="cy")
    with pytest.raises(Interrupted):
        await run.result()
    assert await run.again() == "done"
    assert stock.sent == ["ben"] * (2 if point == "in the call" else 1)
    assert await keys(run) == [FIRST, SECOND]
    [grant] = await desk.ledger.grants.of_run(run.id)
    [_, second] = await run.waits()
    assert (grant.wait_id, grant.approver) == (second.id, "cy")


@pytest.mark.parametrize(
    ("point", "now", "approved"),
    [
        ("wait.consumed", "in stock", False),
        ("wait.consumed", "recalled", True),
        ("granted", "in stock", True),
        ("in the call", "recalled", False),
    ],
)
async def test_where_that_has_changed_it_is_asked_about_once_more(
    desk: Desk, dying: Any, point: str, now: str, approved: bool
) -> None:
    stock = Stock()
    run = await stock.asked_about_ben(desk)
    stock.dies_in_call = point == "in the call"
    dying(point)
    await run.answer({"approved": True}, key=SECOND)
    with pytest.raises(Interrupted):
        await run.result()
    sent = list(stock.sent)
    stock.about["ben"] = now
    run.begin()
    third = await opened(run, THIRD)
    assert '"to": "ben"' in third.evidence
    await cancelled(run)
    stock.about["ben"] = "sold out"  # as it was when the one before was answered
    run.begin()
    await run.answer({"approved": True}, key=THIRD)
    await opened(run, THIRD, 2)
    assert stock.sent == sent
    dying("wait.consumed")
    await run.answer({"approved": approved}, key=THIRD, actor="cy")
    with pytest.raises(Interrupted):
        await run.result()
    assert await run.again() == "done"
    assert stock.sent == ([*sent, "ben"] if approved else sent)
    assert await keys(run) == [FIRST, SECOND, THIRD]
    if approved:
        [grant] = await desk.ledger.grants.of_run(run.id)
        assert (grant.wait_id, grant.approver) == (third.id, "cy")


async def test_what_is_changed_once_more_is_asked_about_once_more(desk: Desk, dying: Any) -> None:
    """From the second wait into a third one, of which the no counts, though each is by then about what it was."""
    stock = Stock()
    run = await stock.asked_about_ben(desk)
    await run.answer({"approved": True, "arguments": json.dumps({"to": "cy"})}, key=SECOND)
    third = await opened(run, THIRD)
    assert '"to": "cy"' in third.evidence
    dying("wait.consumed")
    await run.answer(NO, key=THIRD)
    with pytest.raises(Interrupted):
        await run.result()
    stock.about = dict.fromkeys(stock.about, "in stock")
    assert await run.again() == "done"
    assert stock.sent == []
    assert stock.told() == ["A person refused this call. not that"]


async def test_a_no_counts_after_an_approval_that_was_written_down_before(desk: Desk, dying: Any) -> None:
    """At first the change is about what was seen, then it is not, and then it is again."""
    stock = Stock()
    stock.about["ben"] = "in stock"
    run = await desk.start(stock.flow)
    dying("granted")
    await run.answer(TO_BEN, key=FIRST)
    with pytest.raises(Interrupted):
        await run.result()
    assert len(await desk.ledger.grants.of_run(run.id)) == 1
    stock.about["ben"] = "sold out"
    run.begin()
    await opened(run, SECOND)
    dying("wait.consumed")
    await run.answer(NO, key=SECOND)
    with pytest.raises(Interrupted):
        await run.result()
    stock.about["ben"] = "in stock"
    assert await run.again() == "done"
    assert stock.sent == []


async def test_of_the_calls_of_one_wait_those_count_there_that_no_other_asked_about(desk: Desk, dying: Any) -> None:
    stock = Stock()
    stock.script.lines = ([call("send", to="ada"), call("send", to="cy"), call("send", to="ada")], "done")
    run = await desk.start(stock.flow)
    changed = {"arguments_1": json.dumps({"to": "ben"}), "arguments_3": json.dumps({"to": "ada", "text": "hi"})}
    await run.answer({"approved": True, **changed}, key=FIRST)
    second = await opened(run, SECOND)
    assert [shown[0] for shown in json.loads(second.fresh)] == [1]
    dying("wait.consumed")
    await run.answer(NO, key=SECOND)
    with pytest.raises(Interrupted):
        await run.result()
    stock.about["ben"] = "in stock"
    assert await run.again() == "done"
    assert sorted(stock.sent) == ["ada: hi", "cy"]
    assert await keys(run) == [FIRST, SECOND]


@pytest.mark.parametrize("approved", [True, False])
async def test_so_it_is_where_other_code_has_made_another_call_of_it(desk: Desk, dying: Any, approved: bool) -> None:
    """And then it is the code again of which the call was approved."""
    stock = Stock()
    run = await desk.start(stock.flow)
    dying("wait.consumed")
    await run.answer({"approved": True}, key=FIRST)
    with pytest.raises(Interrupted):
        await run.result()
    run.begin(stock.with_default("good-bye"))
    second = await opened(run, SECOND)
    assert '"text": "good-bye"' in second.evidence
    dying("wait.consumed")
    await run.answer({"approved": approved}, key=SECOND)
    with pytest.raises(Interrupted):
        await run.result()
    run.begin(stock.flow)
    third = await opened(run, THIRD)
    assert '"text": "hello"' in third.evidence
    assert stock.sent == []
    await run.answer({"approved": True}, key=THIRD)
    assert await run.result() == "done"
    assert stock.sent == ["ada"]
