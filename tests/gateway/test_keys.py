"""Who may do what: a key has one role, is kept as a hash, expires and can be revoked."""

from datetime import timedelta

import pytest

from standby import clock
from standby.gateway.keys import make_key
from standby.states import Role
from tests.gateway.conftest import Gate
from tests.ledger.acts import approval, parked

DOORS = {
    "send": ("POST", "/signals/paid", {}),
    "see": ("GET", "/waits", None),
    "answer": ("POST", "/waits/none/answer", {"approved": True}),
}
MAY = {
    Role.SENDER: {"send"},
    Role.VIEWER: {"see"},
    Role.APPROVER: {"see", "answer"},
    Role.ADMIN: {"send", "see", "answer"},
}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("what", DOORS)
async def test_a_role_may_do_this_and_nothing_else(door: Gate, role: Role, what: str) -> None:
    method, path, body = DOORS[what]
    sent = await door.client.request(method, path, json=body, headers=await door.as_(role))
    assert (sent.status_code != 403) == (what in MAY[role]), sent.text
    assert sent.status_code in (200, 403, 404)


@pytest.mark.parametrize("what", DOORS)
@pytest.mark.parametrize("key", [None, "sb_wrong", "", "\u00e4"])
async def test_nobody_comes_in_without_a_good_key(door: Gate, what: str, key: str | None) -> None:
    method, path, body = DOORS[what]
    headers = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
    sent = await door.client.request(method, path, json=body, headers=headers)  # type: ignore[arg-type]
    assert sent.status_code == 401
    assert "key" in sent.json()["error"]


async def test_a_key_that_expired_or_was_revoked_is_good_for_nothing(gate: Gate) -> None:
    """Row 58."""
    old, _ = await make_key(gate.ledger, "ada", Role.VIEWER, expires_at=clock.utcnow() - timedelta(seconds=1))
    gone, key_id = await make_key(gate.ledger, "ada", Role.VIEWER)
    assert (await gate.client.get("/waits", headers={"Authorization": f"Bearer {gone}"})).status_code == 200
    assert await gate.ledger.keys.revoke(key_id) == 1
    for key in (old, gone):
        assert (await gate.client.get("/waits", headers={"Authorization": f"Bearer {key}"})).status_code == 401


async def test_who_is_kept_from_deciding_is_told_why_and_is_in_the_audit(gate: Gate) -> None:
    """Row 58: wrong role, wrong party, a key that was revoked or has expired; a stranger is nobody to name."""
    [wait] = (await parked(gate.ledger, [approval(party="finance", answer_schema="{}")])).waits
    old, _ = await make_key(gate.ledger, "old", Role.APPROVER, expires_at=clock.utcnow() - timedelta(seconds=1))
    gone, key_id = await make_key(gate.ledger, "gone", Role.APPROVER)
    await gate.ledger.keys.revoke(key_id)
    tries = {
        "The key of old has expired. `standby keys add` makes a new one.": (401, {"Authorization": f"Bearer {old}"}),
        "The key of gone was revoked. `standby keys add` makes a new one.": (401, {"Authorization": f"Bearer {gone}"}),
        "The key of vic has the role viewer; this takes one of: admin, approver.": (
            403,
            await gate.as_(Role.VIEWER, "vic"),
        ),
        "bob does not answer for finance, who is asked here.": (403, await gate.as_(Role.APPROVER, "bob", ["sales"])),
        "This key is unknown. `standby keys add` makes a new one.": (401, {"Authorization": "Bearer sb_x"}),
    }
    for why, (status, headers) in tries.items():
        sent = await gate.client.post(f"/waits/{wait.id}/answer", json={"paid": 1}, headers=headers)
        assert (sent.status_code, sent.json()["error"]) == (status, why)
    audit = await gate.ledger.waits.decisions_of("run")
    assert [(one.actor, one.door, one.verdict, one.note) for one in audit] == [
        (name, "gateway", "refused", why) for name, why in zip(("old", "gone", "vic", "bob"), tries, strict=False)
    ]
    assert {one.answer for one in audit} == {'{"paid": 1}'}, "as it came"


async def test_what_somebody_says_who_may_not_is_not_kept_at_any_length(door: Gate) -> None:
    [wait] = (await parked(door.ledger, [approval(party="finance", answer_schema="{}")])).waits
    gone, key_id = await make_key(door.ledger, "gone", Role.APPROVER)
    await door.ledger.keys.revoke(key_id)
    vic, bob = await door.as_(Role.VIEWER, "vic"), await door.as_(Role.APPROVER, "bob", ["sales"])
    headers = [{"Authorization": f"Bearer {gone}"}, vic, bob]
    for one in headers:
        for body in (b'"' + b"x" * 70_000 + b'"', b"[" * 5000, b"\xff"):
            sent = await door.client.post(f"/waits/{wait.id}/answer", content=body, headers=one)
            assert sent.status_code in (400, 401, 403, 422)
    audit = await door.ledger.waits.decisions_of("run")
    assert {one.answer for one in audit} == {None}
    long = [one.actor for one in audit if one.note.endswith(" What was said has more than 65,536 characters.")]
    assert long == ["gone", "vic", "bob"]


@pytest.mark.parametrize("wait_id", ["%00", "a%00b"])
async def test_who_may_not_answer_is_told_so_whatever_they_call_the_wait(gate: Gate, wait_id: str) -> None:
    """No database need be able to look for it."""
    old, _ = await make_key(gate.ledger, "old", Role.APPROVER, expires_at=clock.utcnow() - timedelta(seconds=1))
    vic, gone = await gate.as_(Role.VIEWER, "vic"), {"Authorization": f"Bearer {old}"}
    for headers, status in ((vic, 403), (gone, 401), (await gate.as_(Role.APPROVER, "ada"), 422)):
        sent = await gate.client.post(f"/waits/{wait_id}/answer", json=1, headers=headers)
        assert (sent.status_code, sent.headers["content-type"]) == (status, "application/json")


async def test_the_key_itself_is_not_kept(gate: Gate) -> None:
    key, _ = await make_key(gate.ledger, "ada", Role.VIEWER)
    [row] = await gate.ledger.keys.all()
    assert not [value for value in row if isinstance(value, str) and key.removeprefix("sb_")[:8] in value]


async def test_an_approver_answers_for_their_parties_only(gate: Gate) -> None:
    group = await parked(gate.ledger, [approval(party="finance", answer_schema="{}")])
    path = f"/waits/{group.waits[0].id}/answer"
    other = await gate.client.post(path, json=1, headers=await gate.as_(Role.APPROVER, "bob", parties=["sales"]))
    assert (other.status_code, other.json()["error"]) == (403, "bob does not answer for finance, who is asked here.")
    mine = await gate.client.post(path, json=1, headers=await gate.as_(Role.APPROVER, "ada", parties=["finance"]))
    assert mine.status_code == 200
