"""Approvals with a policy: each decision is counted, inside a transaction that has locked the run."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Row, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.errors import NotAllowed
from standby.ledger.settling import Settled, decide, settle_in
from standby.ledger.tables import Decision, Delegation, Wait, table_of
from standby.policy import Policy, Standing, Vote, approves, disagreement, may_count, next_due, place_of, standing
from standby.states import ENDED, Door, Outcome, RunState, Verdict, WaitState

decisions = table_of(Decision)
waits = table_of(Wait)
delegations = table_of(Delegation)


async def vote_in(
    connection: AsyncConnection,
    run: Row[Any],
    wait: Row[Any],
    *,
    answer: str,
    door: Door,
    actor: str | None,
    note: str | None,
    given_at: datetime | None = None,
) -> Settled:
    """Count a decision; it settles the wait when its policy is met, or cannot be met any more."""
    how: dict[str, Any] = {
        "outcome": Outcome.ANSWERED, "answer": answer, "door": door, "actor": actor, "note": note, "given_at": given_at,
    }  # fmt: skip
    if wait.state != WaitState.OPEN or RunState(run.state) in ENDED:
        return await settle_in(connection, run, wait, **how)
    policy = Policy.model_validate_json(wait.policy)
    counted = await counted_for(connection, wait)
    votes = [_vote(one) for one in counted]
    try:
        place = place_of(policy, actor, votes, await _delegates(connection, policy))
        if approves(answer):
            _must_agree(answer, [one for one in counted if approves(one.answer)])
    except NotAllowed as refused:
        await decide(connection, wait, Verdict.REFUSED, answer, door, actor, str(refused))
        return Settled(False, wait, False, None, refused=str(refused))
    if standing(policy, [*votes, Vote(actor or "", place, approves(answer))]) is Standing.OPEN:
        await decide(connection, wait, Verdict.COUNTED, answer, door, actor, note, place)
        await connection.execute(update(waits).where(waits.c.id == wait.id).values(refused=None))
        return Settled(False, wait, False, None, counted=True)
    return await settle_in(connection, run, wait, **how, place=place or None)


async def count_anew(connection: AsyncConnection, run: Row[Any], wait: Row[Any]) -> None:
    """The policy of an open wait is another now: whom it leaves out does not count, and the rest may settle it."""
    if wait.policy is None:
        return
    policy = Policy.model_validate_json(wait.policy)
    counted = []
    for one in await counted_for(connection, wait):
        # One that came by Prefect's form, when anybody could decide, is nobody's.
        if may_count(policy, _vote(one)) and (one.actor or not policy.names_people):
            counted.append(one)
            continue
        left_out = {"verdict": Verdict.REFUSED, "note": "the policy changed, and this does not count any more"}
        await connection.execute(update(decisions).where(decisions.c.id == one.id).values(**left_out))
    comes_to = standing(policy, map(_vote, counted))
    if comes_to is Standing.OPEN:
        return
    last = [one for one in counted if approves(one.answer) is (comes_to is Standing.APPROVED)][-1]
    await settle_in(
        connection, run, wait, outcome=Outcome.ANSWERED, answer=last.answer, door=Door(last.door), actor=last.actor,
        decision=last.id,
    )  # fmt: skip


def _vote(decision: Row[Any]) -> Vote:
    return Vote(decision.actor, decision.place or decision.actor, approves(decision.answer))


async def counted_for(connection: AsyncConnection, wait: Row[Any]) -> list[Row[Any]]:
    """The decisions that count for the wait as it is open now: another opening asks everybody anew."""
    return list(
        await connection.execute(
            select(decisions)
            .where(
                decisions.c.wait_id == wait.id,
                decisions.c.opening == wait.opening,
                decisions.c.verdict == Verdict.COUNTED,
            )
            .order_by(decisions.c.decided_at)
        )
    )


async def deciders(connection: AsyncConnection, policy: str | None) -> list[str]:
    """Who may decide, by name, and who stands in for them now; nobody where the policy names no approvers."""
    parsed = Policy.model_validate_json(policy) if policy is not None else Policy()
    able = [name for name in parsed.approvers if name not in parsed.not_by]
    if not able:
        return []
    takers = await _delegates(connection, parsed)
    stand_ins = [takers[name] for name in able if name in takers and takers[name] not in parsed.not_by]
    return list(dict.fromkeys([*able, *stand_ins]))


def next_chase(policy: str | None, opened_at: datetime, done: int) -> datetime | None:
    """When the next reminder or escalation is due."""
    return next_due(Policy.model_validate_json(policy), opened_at, done) if policy is not None else None


async def _delegates(connection: AsyncConnection, policy: Policy) -> dict[str, str]:
    rows = await connection.execute(
        select(delegations.c.giver, delegations.c.taker).where(
            delegations.c.giver.in_(policy.approvers),
            or_(delegations.c.until.is_(None), delegations.c.until > clock.utcnow()),
        )
    )
    return {row.giver: row.taker for row in rows}


def _must_agree(answer: str, earlier: list[Row[Any]]) -> None:
    for one in earlier:
        theirs = json.loads(one.answer)
        if fields := disagreement(json.loads(answer), theirs):
            said = ", ".join(_field(name, theirs.get(name)) for name in fields)
            raise NotAllowed(f"{one.actor} has approved with {said}: approve the same, or reject")


def _field(name: str, value: object) -> str:
    return f"{name} left empty" if value is None else f"{name}={json.dumps(value)}"
