"""The journal of a run: an intent becomes a record, and a record stays."""

import pytest

from standby.ledger import Ledger
from standby.states import CheckpointKind, CheckpointState, Need, RunState

from .acts import approval, claim, open_group, take_over

INTENDED, RECORDED, FAILED = CheckpointState.INTENDED, CheckpointState.RECORDED, CheckpointState.FAILED


async def test_a_recorded_value_is_read_back_as_it_was(ledger: Ledger) -> None:
    await claim(ledger)
    assert await ledger.checkpoints.write("run", 1, "pay", 0, RECORDED, value='{"é": "\\ud83d"}', digest="d")
    [entry] = await ledger.checkpoints.journal("run")
    assert entry == ("pay", 0, CheckpointKind.STEP, RECORDED, '{"é": "\\ud83d"}', None, "d", 1)
    assert await ledger.checkpoints.find("run", "pay") == entry
    assert await ledger.checkpoints.find("run", "book") is None


async def test_an_intent_becomes_a_record(ledger: Ledger) -> None:
    await claim(ledger)
    assert await ledger.checkpoints.write("run", 1, "pay", 3, INTENDED)
    assert (await ledger.checkpoints.journal("run"))[0].state == INTENDED
    assert await ledger.checkpoints.count("run") == 0
    assert await ledger.checkpoints.write("run", 1, "pay", 3, RECORDED, value="1", digest="d")
    [entry] = await ledger.checkpoints.journal("run")
    assert (entry.state, entry.value, entry.position) == (RECORDED, "1", 3)
    assert await ledger.checkpoints.count("run") == 1


@pytest.mark.parametrize("state", [INTENDED, RECORDED])
async def test_what_is_recorded_is_never_overwritten(ledger: Ledger, state: CheckpointState) -> None:
    await claim(ledger)
    await ledger.checkpoints.write("run", 1, "pay", 0, RECORDED, value="1", digest="d")
    assert not await ledger.checkpoints.write("run", 1, "pay", 0, state, value="2", digest="e")
    attempt = await take_over(ledger)
    assert not await ledger.checkpoints.write("run", attempt, "pay", 0, state, value="3", digest="f")
    [entry] = await ledger.checkpoints.journal("run")
    assert (entry.state, entry.value, entry.digest) == (RECORDED, "1", "d")


async def test_only_the_attempt_that_wrote_a_value_can_say_that_it_went_on_without_it(ledger: Ledger) -> None:
    """It was cut off in that very moment. What an earlier attempt wrote, this one has come by."""
    await claim(ledger)
    await ledger.checkpoints.write("run", 1, "pay", 0, RECORDED, value="1", digest="d")
    await ledger.checkpoints.write("run", 1, "book", 1, RECORDED, value="2", digest="e")
    assert await ledger.checkpoints.write("run", 1, "pay", 0, FAILED, value='"cut off"', digest="f")
    attempt = await take_over(ledger)
    for key, digest in ("pay", "f"), ("book", "e"):
        assert not await ledger.checkpoints.write("run", attempt, key, 0, FAILED, value="3", digest="g")
        entry = await ledger.checkpoints.find("run", key)
        assert entry is not None
        assert (entry.state, entry.digest, entry.attempt) == (FAILED if key == "pay" else RECORDED, digest, 1)
    assert not await ledger.checkpoints.write("run", 1, "pay", 0, RECORDED, value="1", digest="d")


@pytest.mark.parametrize("intended", [False, True])
async def test_a_failure_that_ends_its_run_is_taken_back(ledger: Ledger, intended: bool) -> None:
    """And what was intended still is. Nothing else is taken back, and by no other attempt."""
    await claim(ledger)
    await ledger.checkpoints.write("run", 1, "pay", 0, FAILED, value='{"type": "..."}', digest="d")
    await ledger.checkpoints.write("run", 1, "book", 1, RECORDED, value="1", digest="e")
    await ledger.checkpoints.take_back_failure("run", 2, "pay", intended=intended)
    await ledger.checkpoints.take_back_failure("run", 1, "book", intended=intended)
    assert {entry.key: entry.state for entry in await ledger.checkpoints.journal("run")} == {
        "pay": FAILED,
        "book": RECORDED,
    }
    await ledger.checkpoints.take_back_failure("run", 1, "pay", intended=intended)
    entry = await ledger.checkpoints.find("run", "pay")
    assert (entry is not None) is intended
    assert entry is None or entry == ("pay", 0, CheckpointKind.STEP, INTENDED, None, None, None, 1)


async def test_a_journal_is_that_of_its_run(ledger: Ledger) -> None:
    for run in ("one", "two"):
        await claim(ledger, run)
        await ledger.checkpoints.write(run, 1, "pay", 0, RECORDED, value=f'"{run}"', digest="d")
    assert [entry.value for entry in await ledger.checkpoints.journal("one")] == ['"one"']


async def test_an_open_wait_stands_in_the_journal_as_an_intent(ledger: Ledger) -> None:
    await claim(ledger)
    await ledger.checkpoints.write("run", 1, "read", 0, RECORDED, value="1", digest="d")
    group = await ledger.waits.open("run", 1, "approval", 1, Need.ONE, [approval()])
    assert group is not None
    entry = await ledger.checkpoints.find("run", "approval")
    assert entry is not None
    assert entry[:4] == ("approval", 1, CheckpointKind.WAIT, INTENDED)
    assert await ledger.waits.consume("run", 1, "approval", '"yes"', "digest")
    entry = await ledger.checkpoints.find("run", "approval")
    assert entry is not None
    assert (entry.position, entry.state, entry.value) == (1, RECORDED, '"yes"')


async def test_a_consumed_wait_is_never_overwritten(ledger: Ledger) -> None:
    await claim(ledger)
    await open_group(ledger, [approval()])
    assert await ledger.waits.consume("run", 1, "approval", '"yes"', "digest")
    assert not await ledger.waits.consume("run", 1, "approval", '"no"', "digest")
    entry = await ledger.checkpoints.find("run", "approval")
    assert entry is not None
    assert entry.value == '"yes"'


async def test_a_step_that_outlives_the_failure_of_its_run_is_recorded_all_the_same(ledger: Ledger) -> None:
    """G1: of two branches one fails and ends the run, and what the other has done must not be done again."""
    await claim(ledger)
    await ledger.runs.end("run", 1, RunState.FAILED, error="the other branch")
    assert await ledger.checkpoints.write("run", 1, "pay", 0, RECORDED, value="1", digest="d")


async def test_what_prefect_persists_beside_checkpoints_is_kept_under_its_key(ledger: Ledger) -> None:
    assert await ledger.checkpoints.get_blob("result") is None
    await ledger.checkpoints.put_blob("result", "one")
    await ledger.checkpoints.put_blob("result", "two")
    assert await ledger.checkpoints.get_blob("result") == "two"


async def test_text_that_no_database_can_hold_is_stored_with_marks_in_its_place(ledger: Ledger) -> None:
    """What is shown to a person, or went wrong, may be what came out of a damaged file."""
    await claim(ledger)
    group = await open_group(ledger, [approval(evidence="half \ud83d and \0 nul, é")])
    assert group.waits[0].evidence == "half \ufffd and \ufffd nul, é"
    assert await ledger.waits.note_refusal("run", 1, group.waits[0].id, "1", "\udc00")
    assert await ledger.runs.end("run", 1, RunState.FAILED, error="ValueError: \0")
    run = await ledger.runs.get("run")
    assert run is not None
    assert run.error == "ValueError: \ufffd"


async def test_the_latest_key_of_a_run_is_what_it_did_last(ledger: Ledger) -> None:
    await claim(ledger)
    await claim(ledger, "fresh")
    for position, key in enumerate(("read", "match", "book")):
        await ledger.checkpoints.write("run", 1, key, position, RECORDED, value="1", digest="d")
    assert await ledger.checkpoints.latest(["run", "fresh"]) == {"run": "book"}
