"""What people approved of a model's calls, in the ledger: given by the attempt that has the run, used once."""

import pytest

from standby.ledger import Ledger
from standby.ledger.grants import GrantRow
from standby.states import CheckpointState
from tests.ledger.acts import claim, take_over

CALL = GrantRow("thinker/1.1.pay.approved", "wait", "pay", "arguments", "schema", "ada", "terminal")
THE_CALL = {"tool": "pay", "arguments": "arguments", "tool_schema": "schema"}


async def test_a_grant_is_used_by_its_own_call_until_that_is_recorded(ledger: Ledger) -> None:
    await claim(ledger)
    assert await ledger.grants.give("run", 1, [CALL])
    assert await ledger.grants.give("run", 1, [CALL]), "again changes nothing"
    assert await ledger.grants.use("run", 1, CALL.key, **THE_CALL) is None
    assert await ledger.grants.use("run", 1, CALL.key, **THE_CALL) is None, "its process died, it is the same call"
    await ledger.checkpoints.write("run", 1, CALL.key, None, CheckpointState.RECORDED, value="1")
    assert await ledger.grants.use("run", 1, CALL.key, **THE_CALL) == "its approval was used before"
    [grant] = await ledger.grants.of_run("run")
    assert (grant.approver, grant.attempt) == ("ada", 1)


@pytest.mark.parametrize(
    ("run", "key", "other", "why"),
    [
        ("run", CALL.key, {"arguments": "others"}, "other arguments were approved"),
        ("run", CALL.key, {"tool": "send"}, "it is 'pay' that was approved"),
        ("run", CALL.key, {"tool_schema": "new"}, "the tool takes other arguments than when it was approved"),
        ("run", "thinker/2.1.pay.approved", {}, "nobody has approved this call"),
        ("other", CALL.key, {}, "nobody has approved this call"),
    ],
    ids=["arguments", "tool", "schema", "another call", "another run"],
)
async def test_rows_56_and_57_a_grant_is_for_one_call_of_one_run(
    ledger: Ledger, run: str, key: str, other: dict[str, str], why: str
) -> None:
    for one in ("run", "other"):
        await claim(ledger, one)
    await ledger.grants.give("run", 1, [CALL])
    assert await ledger.grants.use(run, 1, key, **(THE_CALL | other)) == why


async def test_an_attempt_that_lost_the_run_neither_gives_nor_uses_grants(ledger: Ledger) -> None:
    await claim(ledger)
    await ledger.grants.give("run", 1, [CALL])
    await take_over(ledger)
    assert not await ledger.grants.give("run", 1, [CALL])
    assert await ledger.grants.use("run", 1, CALL.key, **THE_CALL) == "another attempt has the run"
    assert await ledger.grants.use("run", 2, CALL.key, **THE_CALL) is None
