"""Policies: who may decide, when it is decided, and what is due when nobody does."""

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from pydantic import BaseModel, Field, ValidationError

from standby import Approval, Escalation, NotAllowed, Policy, UsageError
from standby.policy import Due, Standing, Vote, disagreement, due, moments, next_due, place_of, standing

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def votes(text: str) -> list[Vote]:
    """``"a+ b-"``: a approves, b rejects."""
    return [Vote(word[:-1], word[:-1], word[-1] == "+") for word in text.split()]


@pytest.mark.parametrize(
    ("policy", "cast", "comes_to"),
    [
        (Policy(), "", Standing.OPEN),
        (Policy(), "a+", Standing.APPROVED),
        (Policy(), "a-", Standing.REJECTED),
        (Policy(quorum=2), "a+", Standing.OPEN),
        (Policy(quorum=2), "a+ b+", Standing.APPROVED),
        (Policy(quorum=2), "a+ b-", Standing.REJECTED),
        (Policy(quorum=2, approvers=("a", "b", "c")), "a-", Standing.OPEN),
        (Policy(quorum=2, approvers=("a", "b", "c")), "a- b-", Standing.REJECTED),
        (Policy(quorum=2, approvers=("a", "b", "c")), "a- b+ c+", Standing.APPROVED),
        (Policy(quorum=1, approvers=("a", "b")), "a-", Standing.OPEN),
        (Policy(quorum=2, approvers=("a", "b", "c"), not_by=("c",)), "a-", Standing.REJECTED),
    ],
)
def test_what_votes_come_to(policy: Policy, cast: str, comes_to: Standing) -> None:
    for order in permutations(votes(cast)):
        assert standing(policy, order) is comes_to


def test_every_course_of_votes_ends_and_stays_as_it_ended() -> None:
    """Of all orders of all votes of four approvers: nobody is left to vote while it is open, and it never turns."""
    for quorum in range(1, 5):
        policy = Policy(quorum=quorum, approvers=("a", "b", "c", "d"))
        for ballot in range(16):
            cast = [Vote(name, name, bool(ballot >> n & 1)) for n, name in enumerate(policy.approvers)]
            for order in permutations(cast):
                course = [standing(policy, order[:count]) for count in range(5)]
                assert course[4] is not Standing.OPEN
                ended = [one for one in course if one is not Standing.OPEN]
                assert len(set(ended)) == 1
                assert (ended[0] is Standing.APPROVED) == (sum(vote.approved for vote in cast) >= quorum)


@pytest.mark.parametrize(
    ("policy", "actor", "cast", "says"),
    [
        (Policy(quorum=2), None, "", "has to be known"),
        (Policy(quorum=2), "", "", "has to be known"),
        (Policy(not_by=("eve",)), "eve", "", "eve may not decide"),
        (Policy(quorum=2), "ada", "ada+", "counts once"),
        (Policy(approvers=("ada",)), "bob", "", "bob is not among ada"),
    ],
)
def test_who_may_not_decide_is_told_why(policy: Policy, actor: str | None, cast: str, says: str) -> None:
    with pytest.raises(NotAllowed, match=says):
        place_of(policy, actor, votes(cast), {})


def test_who_was_delegated_to_decides_in_the_place_of_who_delegated() -> None:
    policy = Policy(quorum=2, approvers=("ada", "bob", "eve"), not_by=("eve",))
    assert place_of(policy, "zoe", [], {"ada": "zoe"}) == "ada"
    with pytest.raises(NotAllowed, match="counts once"):
        place_of(policy, "zoe", [Vote("zoe", "ada", True)], {"ada": "zoe", "bob": "zoe"})
    with pytest.raises(NotAllowed, match="in the place of ada"):
        place_of(policy, "ada", [Vote("zoe", "ada", True)], {"ada": "zoe"})
    with pytest.raises(NotAllowed, match="not among"):
        place_of(policy, "zoe", [], {"eve": "zoe"})
    assert place_of(Policy(), None, [], {}) == "", "without a policy on people nobody needs a name"


def test_everybody_approves_the_same() -> None:
    assert disagreement({"approved": True, "amount": 1, "comment": "x"}, {"approved": True, "amount": 1}) == []
    assert disagreement({"approved": True, "amount": 1}, {"approved": True, "amount": 2}) == ["amount"]
    assert disagreement({"approved": True}, {"approved": True, "account": "7"}) == ["account"]


def test_what_is_due_is_done_once_however_late_it_is_looked_at() -> None:
    policy = Policy(remind=(HOUR, 3 * HOUR), escalate=(Escalation(after=2 * HOUR, to="the boss"),))
    assert moments(policy) == [(HOUR, None), (2 * HOUR, "the boss"), (3 * HOUR, None)]
    assert next_due(policy, NOON, 0) == NOON + HOUR
    assert due(policy, NOON, NOON, 0) == (Due(False, None), 0)
    assert due(policy, NOON, NOON + HOUR, 0) == (Due(True, None), 1)
    assert due(policy, NOON, NOON + 2 * HOUR, 1) == (Due(False, "the boss"), 2)
    assert due(policy, NOON, NOON + 99 * HOUR, 0) == (Due(True, "the boss"), 3)
    assert due(policy, NOON, NOON + 99 * HOUR, 3) == (Due(False, None), 3)
    assert next_due(policy, NOON, 3) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"quorum": 0}, {"quorum": 3, "approvers": ["a", "b"]}, {"quorum": 1, "approvers": ["a"], "not_by": ["a"]},
        {"remind": [timedelta(0)]}, {"escalate": [{"after": timedelta(0), "to": "b"}]}, {"quorums": 2},
        {"approvers": ["a", ""]}, {"not_by": ["a\0"]},
        {"remind": [timedelta.max]}, {"escalate": [{"after": timedelta.max, "to": "b"}]},
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_met_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate(wrong)


def test_a_policy_needs_a_form_that_approves() -> None:
    class Colour(BaseModel):
        colour: str

    class ShownAsApproved(BaseModel):
        okay: bool = Field(alias="approved")

    class ShownAsOkay(BaseModel):
        approved: bool = Field(alias="okay")

    for form in (Colour, ShownAsApproved, ShownAsOkay):
        with pytest.raises(UsageError, match="has no field 'approved'"):
            Approval("Which?", form=form, policy=Policy(quorum=2))
    Approval("Which?", form=Colour, policy=Policy(remind=(HOUR,)))
