"""The gateway that `standby up` starts: approvers' answers and the bank's webhook reach the run that waits."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update
from standardwebhooks.webhooks import Webhook

from standby import clock
from standby.gateway.keys import make_key
from standby.ledger.tables import Wait, table_of
from standby.states import Door, Role, Verdict, WaitKind, WaitState
from tests.invoices.documents import OVER_LIMIT
from tests.system.invoices import write_invoice
from tests.system.runs import Runs

waits = table_of(Wait)
pytestmark = pytest.mark.xdist_group("agents")  # one `standby up` for all of them


@asynccontextmanager
async def gateway(runs: Runs) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://127.0.0.1:{runs.project.gateway_port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        yield client


async def test_two_approvers_answer_over_http(runs: Runs, tmp_path: Path) -> None:
    run = await runs.start(path=write_invoice(tmp_path, "GATE-1", OVER_LIMIT))
    wait = await runs.waits(run)
    keys = {name: (await make_key(runs.ledger, name, Role.APPROVER))[0] for name in ("ada", "bob")}
    async with gateway(runs) as client:

        async def answers(name: str, **form: object) -> httpx.Response:
            headers = {"Authorization": f"Bearer {keys[name]}"}
            return await client.post(f"/waits/{wait.id}/answer", headers=headers, json=form)

        refused = await answers("ada", approved=True, amount="much")
        assert (refused.status_code, refused.json()["problems"][0]["field"]) == (422, "amount")
        first = await answers("ada", approved=True, comment="by HTTP")
        assert (first.status_code, first.json()["decided"]) == (200, False)
        assert (await answers("ada", approved=True)).status_code == 403
        assert (await runs.ledger.waits.get(wait.id)).state == WaitState.OPEN
        second = await answers("bob", approved=True, comment="I agree")
        assert (second.status_code, second.json()["decided"], second.json()["woken"]) == (200, True, True)
    receipt = await runs.receipt(run)
    assert (receipt["outcome"], receipt["comment"]) == ("paid", "I agree")
    decided = [each for each in await runs.ledger.waits.decisions_of(run) if each.wait_id == wait.id]
    assert [(each.actor, each.verdict, each.door) for each in decided] == [
        ("ada", Verdict.COUNTED, Door.GATEWAY),
        ("ada", Verdict.REFUSED, Door.GATEWAY),
        ("bob", Verdict.WON, Door.GATEWAY),
    ]


async def test_the_bank_settles_by_its_signed_webhook_and_nobody_else_does(runs: Runs, tmp_path: Path) -> None:
    """A forged report is refused and the run waits on; the bank's is taken, and once more changes nothing."""
    await runs.bank.configure(settle="manual")
    run = await runs.start(path=write_invoice(tmp_path, "HOOK-1"))
    wait = await runs.waits(run, WaitKind.CONDITION)
    # Nobody polls meanwhile: what settles it is the webhook.
    later = update(waits).where(waits.c.id == wait.id).values(poll_at=clock.utcnow() + timedelta(hours=1))
    assert await runs.ledger.database.write(later) == 1
    [payment] = await runs.payments(run)
    said = {"payment_id": payment["id"], "status": "settled", "settled_at": payment["created_at"]}
    body = json.dumps({"type": "payment.settled", "data": said | {"amount": "340.20", "currency": "EUR"}})
    async with gateway(runs) as client:
        now = datetime.now(UTC)
        signature = Webhook(base64.b64encode(b"not the bank's").decode()).sign("evt_forged", now, body)
        headers = {"webhook-id": "evt_forged", "webhook-timestamp": str(int(now.timestamp()))}
        forged = await client.post("/webhooks/bank", content=body, headers=headers | {"webhook-signature": signature})
    assert forged.status_code == 401, forged.text
    assert (await runs.waits(run, WaitKind.CONDITION)).id == wait.id

    settled = await runs.bank.client.post(f"/payments/{payment['id']}/settle")
    assert settled.is_success, settled.text
    receipt = await runs.receipt(run)
    assert (receipt["outcome"], receipt["payment_id"]) == ("paid", payment["id"])
    [decision] = await runs.ledger.waits.decisions_of(run)
    assert (decision.door, decision.actor, decision.verdict) == (Door.SIGNAL, "webhook:bank", Verdict.WON)


async def test_the_bank_s_secret_outlives_the_next_bootstrap_and_only_the_bank_has_it_in_clear(runs: Runs) -> None:
    block_of = partial(runs.client.read_block_document_by_name, "bank", "webhook-source")
    [secret] = (await block_of()).data["secrets"]
    assert secret.startswith("whsec_")
    url = f"http://127.0.0.1:{runs.project.gateway_port}"
    again = await runs.project.python(
        "-m", "deployments.bootstrap", PREFECT_API_URL=runs.project.api_url, STANDBY_GATEWAY_URL=url
    )
    assert f"The bank reports to {url}/webhooks/bank." in again.out
    assert (await block_of()).data["secrets"] == [secret]
    assert secret not in again.out + again.err
    assert secret not in str([process.cmdline() for process in runs.project.processes()])
    files = [file for file in runs.project.folder.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"bank.log", "bootstrap.log", "gateway.log", "ledger.db"}
    having = {file.name for file in files if secret.encode() in file.read_bytes()}
    assert having, "the bank keeps it, so it would be found"
    assert having <= {"bank.db", "bank.db-wal"}, having
