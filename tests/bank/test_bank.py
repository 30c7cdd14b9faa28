"""The sandbox bank as its callers meet it: a process of its own, which forgets nothing when it is killed."""

import asyncio
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.sandbox_bank.settlement import retry_pause
from tests.bank.process import ROOT, Bank, running_bank, until
from tests.bank.receiver import ANOTHER, REFUSED, SECRET, TAKEN, receiver
from tests.support.forks import Forks

NEVER = 3600.0
"""Seconds to settlement where a test wants none."""


def an_order(**changes: Any) -> dict[str, Any]:
    order = {"amount": "120.50", "currency": "EUR", "creditor_name": "Nordlicht GmbH", "reference": "INV-7"}
    return {field: value for field, value in {**order, **changes}.items() if value is not ...}


async def pay(bank: Bank, key: str = "run-1/pay", **changes: Any) -> httpx.Response:
    return await bank.client.post("/payments", headers={"Idempotency-Key": key}, json=an_order(**changes))


async def reports(bank: Bank, state: str) -> list[dict[str, Any]]:
    return [report for report in await bank.reports() if report["state"] == state]


async def delivered(bank: Bank, number: int = 1) -> list[dict[str, Any]]:
    """The delivered reports, once there are that many."""

    async def enough() -> list[dict[str, Any]] | None:
        found = await reports(bank, "delivered")
        return found if len(found) == number else None

    return await until(enough)


def refused(bank: Bank) -> Callable[[], Awaitable[bool]]:
    """Whether the bank knows of a report that was refused."""

    async def noted() -> bool:
        return any(report["refusal"] for report in await bank.reports())

    return noted


def noted_attempts(bank: Bank, change: str = "") -> int:
    """What the database of a dead bank says of its one report, read after a `change` made by hand."""
    assert not bank.running
    with closing(sqlite3.connect(bank.database)) as database, database:
        if change:
            database.execute(change)
        ((attempts,),) = database.execute("SELECT attempts FROM webhook_report")
    return int(attempts)


async def test_twenty_equal_orders_at_once_make_one_payment(forks: Forks, tmp_path: Path) -> None:
    """One key, one payment: one caller is told 201, the others 200, all of the same payment."""
    async with running_bank(tmp_path, forks=forks, settle_after=NEVER) as bank:
        answers = await asyncio.gather(*(pay(bank) for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
        assert len({answer.text for answer in answers}) == 1
        assert await bank.counts() == {"payments": 1, "requests_by_key": {"run-1/pay": 20}}
        payment = answers[0].json()
        assert payment | {"id": "", "created_at": ""} == {
            "id": "",
            "idempotency_key": "run-1/pay",
            "amount": "120.50",
            "currency": "EUR",
            "creditor_name": "Nordlicht GmbH",
            "reference": "INV-7",
            "status": "accepted",
            "created_at": "",
            "settled_at": None,
        }
        assert datetime.fromisoformat(payment["created_at"]).tzinfo is not None
        assert (await bank.client.get(f"/payments/{payment['id']}")).json() == payment


async def test_a_key_used_with_another_order_is_a_conflict_that_names_the_field(forks: Forks, tmp_path: Path) -> None:
    async with running_bank(tmp_path, forks=forks, settle_after=NEVER) as bank:
        first = await pay(bank)
        for field, value in {
            "amount": "120.51",
            "creditor_account": "DE02",
        }.items():
            conflict = await pay(bank, **{field: value})
            assert (conflict.status_code, conflict.json()["field"]) == (409, field)
            assert field in conflict.json()["detail"]
        # The same order in other words is no conflict.
        assert (await pay(bank, amount="120.5", currency="eur")).json() == first.json()
        orders = await asyncio.gather(*(pay(bank, "contested", reference=f"INV-{n}") for n in range(5)))
        assert sorted(answer.status_code for answer in orders) == [201, 409, 409, 409, 409]


async def test_input_errors_are_4xx_and_name_the_field(forks: Forks, tmp_path: Path) -> None:
    async with running_bank(tmp_path, forks=forks, settle_after=NEVER) as bank:
        wrong: list[tuple[str, Any]] = [
            ("amount", "0.00"),
            ("amount", "-1"),
            ("amount", "1e3"),
            ("amount", "NaN"),
            ("amount", 12.5),
            ("amount", None),
            ("amount", "1" * 400),
            ("currency", "EURO"),
            ("creditor_name", "  "),
            ("reference", ...),
            ("reference", ["a"]),
            ("creditor_acount", "DE02"),
        ]
        for field, value in wrong:
            answer = await pay(bank, **{field: value})
            assert (answer.status_code, answer.json()["field"]) == (422, field), (field, value, answer.text)
            assert field in answer.json()["detail"]
        for body in (b"", b"{", b"[]", b'"x"', b"\xff", b'{"amount": "\\ud800"}', b"[" * 100_000):
            headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
            answer = await bank.client.post("/payments", headers=headers, content=body)
            assert 400 <= answer.status_code < 500, (body[:20], answer.text)
        for key in (None, "", "ü", "k" * 256):
            headers = {} if key is None else {"Idempotency-Key": key}
            encoded = httpx.Headers(headers, encoding="utf-8")
            answer = await bank.client.post("/payments", headers=encoded, json=an_order())
            assert (answer.status_code, "Idempotency-Key" in answer.text) == (400, True), (key, answer.text)
        for controls in ({"forgetful": 10**30}, {"slow_seconds": -1}, {"settle": "maybe"}, {"fast": True}):
            answer = await bank.client.put("/sandbox", json=controls)
            assert (answer.status_code, answer.json()["field"]) == (422, next(iter(controls))), answer.text
        for field, value in (("url", "ftp://a/"), ("secret", "whsec_"), ("secret", "whsec_ü"), ("topic", "x")):
            webhook = {"url": "http://a/", "secret": SECRET, field: value}
            answer = await bank.client.put("/webhook", json=webhook)
            assert (answer.status_code, answer.json()["field"]) == (422, field), (field, value, answer.text)
        missing = await bank.client.get("/payments/pay_none")
        assert (missing.status_code, missing.json()["detail"]) == (404, "There is no payment 'pay_none'.")
        assert (await bank.client.get("/payments")).json()["field"] == "idempotency_key"
        for given in ("Bearer wrong", "Bearer ü", "Basic c2FuZGJveA==", ""):
            stranger = httpx.Headers({"Authorization": given}, encoding="utf-8")
            for method, path in (("GET", "/sandbox"), ("PUT", "/webhook")):
                answer = await bank.client.request(method, path, headers=stranger)
                assert answer.status_code == 401, (given, answer.text)
        assert (await bank.counts())["payments"] == 0
        assert max(request["status"] for request in await bank.log()) < 500
        assert bank.errors.read_text() == ""


async def test_a_forgetful_bank_has_paid_and_a_lookup_finds_it(forks: Forks, tmp_path: Path) -> None:
    """The caller is told 500, whether the order was new or known; the payment is there all the same."""
    async with running_bank(tmp_path, forks=forks, settle_after=NEVER) as bank:
        await bank.configure(forgetful=2)
        assert [(await pay(bank)).status_code for _ in range(3)] == [500, 500, 200]
        found = await bank.client.get("/payments", params={"idempotency_key": "run-1/pay"})
        assert [payment["idempotency_key"] for payment in found.json()] == ["run-1/pay"]
        assert (await bank.client.get("/payments", params={"idempotency_key": "other"})).json() == []
        assert await bank.counts() == {"payments": 1, "requests_by_key": {"run-1/pay": 3}}
        asked = [(r["method"], r["path"], r["idempotency_key"], r["status"]) for r in await bank.log()]
        assert asked == [
            ("POST", "/payments", "run-1/pay", 500),
            ("POST", "/payments", "run-1/pay", 500),
            ("POST", "/payments", "run-1/pay", 200),
            ("GET", "/payments", "run-1/pay", 200),
            ("GET", "/payments", "other", 200),
        ]


async def test_a_bank_that_is_down_does_nothing_and_stays_down_over_a_restart(forks: Forks, tmp_path: Path) -> None:
    async with running_bank(tmp_path, forks=forks, settle_after=NEVER) as bank:
        await bank.configure(down=True)
        await bank.restart()
        assert (await pay(bank)).status_code == 503
        assert (await bank.client.get("/payments/pay_none")).status_code == 503
        assert await bank.counts() == {"payments": 0, "requests_by_key": {"run-1/pay": 1}}
        assert (await bank.configure(down=False))["settle_after"] == NEVER
        assert (await pay(bank)).status_code == 201


async def test_a_slow_bank_pays_before_it_answers(forks: Forks, tmp_path: Path) -> None:
    """Its caller may give up on a payment that is made; killed before it answers, it still has the request."""
    async with running_bank(tmp_path, forks=forks, settle_after=NEVER) as bank:
        await bank.configure(slow_seconds=60)
        asking = asyncio.create_task(pay(bank))

        async def paid() -> bool:
            return bool((await bank.counts())["payments"])

        await until(paid)
        await bank.restart()
        with pytest.raises(httpx.TransportError):
            await asking
        assert [request["status"] for request in await bank.log()] == [None]
        assert (await bank.configure(slow_seconds=0))["slow_seconds"] == 0
        assert (await pay(bank)).status_code == 200


async def test_killed_right_after_it_accepted_it_settles_and_reports_exactly_that(forks: Forks, tmp_path: Path) -> None:
    async with receiver() as heard, running_bank(tmp_path, forks=forks, settle_after=0.3) as bank:
        await heard.enter_at(bank)
        accepted = [(await pay(bank, f"k{n}", amount=f"{n}.10")).json() for n in range(1, 4)]
        await bank.kill()
        await bank.start()
        await delivered(bank, 3)
        told = {report.body["data"].pop("payment_id"): report for report in heard.heard}
        for payment in accepted:
            settled = (await bank.client.get(f"/payments/{payment['id']}")).json()
            assert settled == payment | {"status": "settled", "settled_at": settled["settled_at"]}
            assert settled["settled_at"] > payment["created_at"]
            shared = ("status", "amount", "currency", "settled_at", "reference")
            assert told[payment["id"]].body == {
                "type": "payment.settled",
                "timestamp": settled["settled_at"],
                "data": {field: settled[field] for field in shared},
            }
        assert len({report.id for report in told.values()}) == (await bank.counts())["payments"] == 3


async def test_a_report_is_repeated_until_the_receiver_takes_it(forks: Forks, tmp_path: Path) -> None:
    """Nothing but 2xx counts; every repetition is the same webhook under the same id."""
    async with receiver() as heard, running_bank(tmp_path, forks=forks, settle_after=0) as bank:
        await heard.enter_at(bank)
        heard.answers = [REFUSED, (503, None), (302, None), (204, None)]
        await pay(bank)
        (report,) = await delivered(bank)
        assert (report["attempts"], report["refusal"]) == (4, None)
        assert len(heard.heard) == 4
        assert all(each == heard.heard[0] for each in heard.heard)


async def test_without_a_webhook_nothing_is_reported(forks: Forks, tmp_path: Path) -> None:
    async with running_bank(tmp_path, forks=forks, settle_after=NEVER) as bank:
        payment = (await pay(bank)).json()
        await bank.client.post(f"/payments/{payment['id']}/settle")
        assert await bank.reports() == []


async def test_a_pending_report_goes_to_the_address_and_with_the_secret_of_today(forks: Forks, tmp_path: Path) -> None:
    """What is entered outlives a restart; what is entered later replaces it for what is pending, too."""
    async with receiver() as closed, receiver() as heard, running_bank(tmp_path, forks=forks, settle_after=0) as bank:
        await closed.enter_at(bank)
        closed.always = REFUSED
        await pay(bank)
        await until(refused(bank))
        await bank.restart()
        heard_before = len(closed.heard)

        async def tried_again() -> bool:
            return len(closed.heard) > heard_before

        await until(tried_again)
        await heard.enter_at(bank, ANOTHER)
        await delivered(bank)
        assert heard.heard[-1] == closed.heard[0]


async def test_the_secret_is_nowhere_but_in_a_database_that_is_the_bank_s_alone(forks: Forks, tmp_path: Path) -> None:
    async with receiver() as heard, running_bank(tmp_path, forks=forks, settle_after=0) as bank:
        await heard.enter_at(bank)
        await pay(bank)
        await delivered(bank)
        said = [bank.output.read_text(), bank.errors.read_text()]
        for path in ("/payments?idempotency_key=run-1/pay", "/sandbox", "/sandbox/reports", "/sandbox/log"):
            said.append((await bank.client.get(path)).text)
        assert not [text for text in said if SECRET in text]
        for file in tmp_path.glob("bank.db*"):
            assert file.stat().st_mode & 0o077 == 0, file


async def test_a_refused_report_is_repeated_after_a_restart(forks: Forks, tmp_path: Path) -> None:
    async with receiver() as heard, running_bank(tmp_path, forks=forks, settle_after=0) as bank:
        await heard.enter_at(bank)
        heard.always = REFUSED
        await pay(bank)
        await until(refused(bank))
        await bank.kill()
        heard.always = TAKEN
        attempts = noted_attempts(bank)
        await bank.start()
        (report,) = await delivered(bank)
        assert report["attempts"] == attempts + 1
        assert all(each == heard.heard[0] for each in heard.heard)


async def test_a_report_is_given_up_a_day_after_settlement_but_not_untried(forks: Forks, tmp_path: Path) -> None:
    """The bank was dead for the day, so the report gets one attempt more."""
    async with receiver() as heard, running_bank(tmp_path, forks=forks, settle_after=0) as bank:
        await heard.enter_at(bank)
        heard.always = (500, None)
        await pay(bank)
        await until(refused(bank))
        await bank.kill()
        attempts = noted_attempts(bank, "UPDATE webhook_report SET settled_at = '2020-01-01T00:00:00.000000+00:00'")
        await bank.start()
        (report,) = await until(lambda: reports(bank, "given_up"))
        assert (report["refusal"], report["attempts"]) == ("HTTP 500", attempts + 1)


async def test_by_hand_a_payment_settles_when_told_and_silence_is_kept(forks: Forks, tmp_path: Path) -> None:
    async with receiver() as heard, running_bank(tmp_path, forks=forks, settle_after=0) as bank:
        await heard.enter_at(bank)
        await bank.configure(settle="manual", report=False)
        payment = (await pay(bank)).json()
        await bank.restart()
        assert (await bank.client.get(f"/payments/{payment['id']}")).json() == payment
        settled = await bank.client.post(f"/payments/{payment['id']}/settle")
        assert settled.json()["status"] == "settled"
        assert (await bank.client.post(f"/payments/{payment['id']}/settle")).json() == settled.json()
        assert (await bank.client.post("/payments/pay_none/settle")).status_code == 404
        await bank.configure(report=True)
        second = (await pay(bank, "second")).json()
        await bank.client.post(f"/payments/{second['id']}/settle")
        await delivered(bank)
        assert [report.body["data"]["payment_id"] for report in heard.heard] == [second["id"]]
        assert [report["payment_id"] for report in await reports(bank, "withheld")] == [payment["id"]]


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_one_line_and_stops_cleanly(forks: Forks, tmp_path: Path, by: signal.Signals) -> None:
    async with running_bank(tmp_path, forks=forks) as bank:
        assert await bank.stop(by) == 0
        assert bank.output.read_text() == f"Sandbox bank on {bank.url}\n"
        assert bank.errors.read_text() == ""


def test_what_keeps_it_from_starting_is_said_in_one_sentence(tmp_path: Path) -> None:
    def start(port: int, database: Path) -> tuple[int, str]:
        command = [
            sys.executable,
            "-m",
            "deployments.sandbox_bank",
            "--port",
            str(port),
            "--database",
            str(database),
        ]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert ended.stdout == ""
        return ended.returncode, ended.stderr

    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        remedy = "stop what listens there or choose another: --port."
        sentence = f"Port {port} is in use; {remedy}\n"
        assert start(port, tmp_path / "bank.db") == (1, sentence)
    (tmp_path / "letter.txt").write_text("Dear bank, " * 100)
    code, said = start(0, tmp_path / "letter.txt")
    assert (code, said) == (
        1,
        f"The database {tmp_path / 'letter.txt'} cannot be used: file is not a database.\n",
    )


def test_pauses_between_attempts_double_up_to_fifteen_seconds() -> None:
    for attempts, longest in {1: 0.25, 2: 0.5, 3: 1.0, 6: 8.0, 7: 15.0, 100_000: 15.0}.items():
        pauses = [retry_pause(attempts) for _ in range(100)]
        assert longest * 0.75 <= min(pauses) < max(pauses) <= longest
