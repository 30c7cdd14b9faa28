"""Where in its journal a run is: the same keys in the same places, or it stops (G10)."""

import asyncio
from typing import Any

import pytest

from standby import JournalMismatch, UsageError, clock, settings
from standby.ledger.checkpoints import Entry
from standby.parts import part
from standby.places import Place, question_on
from standby.runs import AgentRun
from standby.states import CheckpointKind, CheckpointState, Hold

STEP, WAIT = CheckpointKind.STEP, CheckpointKind.WAIT


def entry(key: str, position: int | None, kind: CheckpointKind = STEP) -> Entry:
    return Entry(key, position, kind, CheckpointState.RECORDED, "1", None, "d", 1)


def run_with(*journal: Entry) -> AgentRun:
    unused: Any = None
    return AgentRun("run", 2, Hold.SUSPEND, unused, unused, list(journal), sure_at=clock.elapsed())


READ, MATCH, ASK = entry("read", 0), entry("match", 1), entry("approval", 2, WAIT)


async def test_new_work_is_placed_after_what_was_done() -> None:
    run = run_with(READ, MATCH, ASK)
    places = [run.place("read"), run.place("match"), run.place("approval", kind=WAIT), run.place("read")]
    assert places == [Place("read", 0), Place("match", 1), Place("approval", 2), Place("read#2", 3)]
    run.check_all_met()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["book"], "the journal has 'read' as step 1, the code asks for 'book'"),
        (["match"], "the journal has 'read' as step 1, the code asks for 'match'"),
        (["read", "book"], "the journal has 'match' as step 2, the code asks for 'book'"),
        (["read", "read"], "the journal has 'match' as step 2, the code asks for 'read#2'"),
        (["read", "match", "book"], "the journal has 'approval' as step 3, the code asks for 'book'"),
    ],
    ids=["renamed", "removed", "added", "repeated", "added before the wait"],
)
async def test_another_key_in_a_place_is_a_mismatch(keys: list[str], says: str) -> None:
    run = run_with(READ, MATCH, ASK)
    for key in keys[:-1]:
        run.place(key)
    with pytest.raises(JournalMismatch, match=says):
        run.place(keys[-1])
    with pytest.raises(JournalMismatch, match=says):
        run.place("match")


async def test_a_step_that_took_the_name_of_a_wait_does_not_get_its_answer() -> None:
    run = run_with(entry("approval", 0, WAIT))
    with pytest.raises(JournalMismatch, match="the journal has 'approval' as a wait, the code asks for a step"):
        run.place("approval")
    run = run_with(entry("approval", 0, STEP))
    with pytest.raises(JournalMismatch, match="the journal has 'approval' as a step, the code asks for a wait"):
        run.place("approval", kind=WAIT)


async def test_an_end_that_comes_too_soon_is_a_mismatch() -> None:
    run = run_with(READ, MATCH)
    run.place("read")
    with pytest.raises(JournalMismatch, match=r"the code ends without asking for \['match'\]"):
        run.check_all_met()


async def test_branches_have_keys_of_their_own_and_no_place() -> None:
    run = run_with(entry("left", None), entry("right", None))

    async def branch(key: str | None) -> Place:
        return run.place("walk", key)

    assert await asyncio.gather(branch("right"), branch("left")) == [Place("right", None), Place("left", None)]
    with pytest.raises(UsageError, match=r"Give it a key: walk.with_options\(key=...\)"):
        await asyncio.gather(branch(None))
    assert run.place("walk") == Place("walk", 0), "branches take no place from the agent's own task"


async def test_a_step_that_moved_into_a_branch_or_out_of_one_is_a_mismatch() -> None:
    async def branch(run: AgentRun) -> Place:
        return run.place("read", "read")

    with pytest.raises(JournalMismatch, match="'read' has moved into a racing branch"):
        await asyncio.gather(branch(run_with(READ)))
    with pytest.raises(JournalMismatch, match="the journal has 'read' in a racing branch, the code asks for it as 1"):
        run_with(entry("read", None)).place("read")


async def test_new_work_waits_for_the_branches_to_come_by_what_they_did(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with(entry("left", None))
    work = asyncio.create_task(run.before_new_work("book"))
    await asyncio.sleep(0)
    assert not work.done()

    async def branch() -> None:
        run.place("walk", "left")

    await asyncio.gather(branch())
    await work
    monkeypatch.setattr(settings, "BRANCH_GRACE", settings.BRANCH_GRACE * 0)
    with pytest.raises(JournalMismatch, match=r"the code comes to 'book' and has not asked for \['left'\]"):
        await run_with(entry("left", None)).before_new_work("book")


async def test_a_question_on_a_step_is_met_with_its_step() -> None:
    run = run_with(entry("pay", 0), entry(question_on("pay", 1), None, WAIT), entry(question_on("pay", 2), None, WAIT))
    run.place("pay")
    run.check_all_met()
    await run.before_new_work("book")


async def test_a_key_is_used_once() -> None:
    run = run_with()
    run.place("fetch", "tea")
    with pytest.raises(UsageError, match="'tea' is used twice"):
        run.place("fetch", "tea")


async def test_a_part_of_the_run_counts_its_own_keys_below_its_own() -> None:
    """In any task, and without a position: a tool of a model comes when the model says so."""
    run = run_with(READ, entry("think", 1), entry("think/1.tool/read", None), entry("think/1.model", None))
    taken = run.take_over("think/")
    assert set(taken) == {"1.model", "1.tool/read"}
    assert [run.place("read"), run.place("think")] == [Place("read", 0), Place("think", 1)]
    with part("think/1.tool"):
        assert run.place("read") == Place("think/1.tool/read", None)
        assert run.place("read") == Place("think/1.tool/read#2", None)
        assert run.place("ask", "mine") == Place("think/1.tool/mine", None)
    assert run.place("read") == Place("read#2", 2)
    run.check_all_met()


async def test_what_a_part_has_done_must_be_asked_for_again_unless_it_is_passed_by() -> None:
    run = run_with(entry("think", 0), entry("think/1.tool/read", None))
    run.take_over("think/")
    run.place("think")
    with pytest.raises(JournalMismatch, match="without asking for"):
        run.check_all_met()
    run = run_with(entry("think", 0), entry("think/1.tool/read", None))
    run.place("think")
    run.pass_by("think/1.tool/read")
    run.check_all_met()
