"""The gateway that `standby up` starts: an approver's answer and a webhook reach the run that waits."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from standby.gateway.keys import make_key
from standby.states import Role, WaitState
from tests.invoices.documents import OVER_LIMIT
from tests.system.invoices import write_invoice
from tests.system.runs import Runs

pytestmark = pytest.mark.xdist_group("agents")  # one `standby up` for all of them


async def test_an_approver_answers_over_http(runs: Runs, tmp_path: Path) -> None:
    run = await runs.start(path=write_invoice(tmp_path, "GATE-1", OVER_LIMIT))
    wait = await runs.waits(run)
    key, _ = await make_key(runs.ledger, "ada", Role.APPROVER)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{runs.project.gateway_port}",
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=30,
    ) as client:
        asked = f"/waits/{wait.id}/answer"
        refused = await client.post(asked, json={"approved": True, "amount": "much"})
        assert (refused.status_code, refused.json()["problems"][0]["field"]) == (422, "amount")
        assert (await runs.ledger.waits.get(wait.id)).state == WaitState.OPEN
        taken = await client.post(asked, json={"approved": True, "comment": "by HTTP"})
        assert (taken.status_code, taken.json()["woken"]) == (200, True)
    receipt = await runs.receipt(run)
    assert (receipt["outcome"], receipt["comment"]) == ("paid", "by HTTP")
    [decision] = [each for each in await runs.ledger.waits.decisions_of(run) if each.wait_id == wait.id]
    assert (decision.actor, decision.door) == ("ada", "gateway")
