"""A process dies while an agent thinks, waits for an approval, and does what was approved."""

from __future__ import annotations

import asyncio

from standby.states import WaitState
from tests.support.stage import Stage
from tests.support.waiting import wait_until


async def test_a_thinking_agent_that_is_killed_again_and_again_repeats_what_was_under_way_and_no_more(
    stage: Stage,
) -> None:
    """Rows 2, 11, 57, 60: in a model request, in a tool, while it parks, in what was approved; nothing stays in memory
    while it waits."""
    run = await stage.start("thinking.py:thinking")
    async with stage.keeping():
        await run.dies_at("step.acted:2")  # the first is the beginning, the second the model's answer
        assert await run.rests() == "parked"
        assert [len(run.deeds(what)) for what in ("asked", "look", "pay")] == [3, 2, 0]
        [wait] = [wait for wait in await run.waits() if wait.state == "open"]
        assert wait.key == "thinker/2.asks"
        assert (await run.answer({"approved": True})).won
        await run.dies_at("step.acted:1")  # what was approved is done, and not written down
        assert await run.rests() == "completed"
    assert await run.result() == {"said": "done", "steps": 6}
    assert len(run.deeds("asked")) == 4
    assert len(run.deeds("look")) == 2
    assert [deed.key for deed in run.deeds("pay")] == [f"{run.id}/thinker/2.1.pay.approved"] * 2
    [grant] = await stage.ledger.grants.of_run(run.id)
    assert grant.used_at is not None


async def test_an_approved_call_is_made_once_though_another_of_its_answer_parks_the_run(stage: Stage) -> None:
    """No process dies: the one that acts comes to its outcome first, though the other waits by then."""
    run = await stage.start("thinking.py:mailing")
    async with stage.keeping():
        assert await run.rests() == "parked"
        assert (await run.answer({"approved": True})).won
        rests = asyncio.create_task(run.rests())

        async def both_are_under_way() -> bool:
            waits = [wait.key for wait in await run.waits() if wait.state == WaitState.OPEN]
            return bool(run.deeds("gate")) and waits == ["mailer/1.results.of.2/2"]

        await wait_until(both_are_under_way, shows=run.shown)
        stage.open_gate("send")
        assert await rests == "parked"
        await stage.signal("rendered", "a picture", key="picture")
        assert await run.rests() == "completed"
    assert await run.result() == "done"
    assert [deed.key for deed in run.deeds("send")] == [f"{run.id}/mailer/1.1.send.approved"]
