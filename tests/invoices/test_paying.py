"""Ordering a payment: once, with its key, and with every failure telling whether something may have been ordered."""

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest
from pydantic import SecretStr

from blocks.payment_provider import PaymentProvider
from tasks import pay as module
from tasks.errors import (
    PaymentConflict,
    PaymentError,
    PaymentRefused,
    ProviderFailed,
    ProviderTimeout,
    ProviderUnreachable,
)
from tasks.models import Invoice
from tasks.pay import find_payment, pay
from tests.invoices.documents import CREDIT_NOTE, IN_POLICY, OVER_LIMIT, document, invoice

D = Decimal
URL = "http://bank.test/payments"
Handler = Callable[[httpx.Request], httpx.Response]


def payment(**changes: object) -> dict[str, object]:
    """What the provider answers; fields it has and we do not know are no trouble."""
    fields: dict[str, object] = {
        "id": "pay-1", "idempotency_key": "run-1/step", "amount": "850.61", "currency": "EUR",
        "creditor_name": "Papierhof Lindner OHG", "reference": "RE-26-1187", "status": "accepted",
        "created_at": datetime(2026, 11, 23, tzinfo=UTC).isoformat(), "settled_at": None, "fee": "0.10",
    }  # fmt: skip
    return fields | changes


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, key: str) -> Callable[..., list[httpx.Request]]:
    """Let the provider be a function from a request to its answer; returns the requests it gets."""

    def be(handler: Handler, **settings: object) -> list[httpx.Request]:
        requests: list[httpx.Request] = []
        block = PaymentProvider.model_validate({"base_url": "http://bank.test/", "api_key": "secret-key", **settings})

        async def load(*_: object) -> PaymentProvider:
            return block

        def note(request: httpx.Request) -> httpx.Response:
            requests.append(request)
            return handler(request)

        def client(block: PaymentProvider) -> httpx.AsyncClient:
            made = opened(block)
            return httpx.AsyncClient(transport=httpx.MockTransport(note), headers=made.headers, timeout=made.timeout)

        opened = module.open_client
        monkeypatch.setattr(module, "load_or_default", load)
        monkeypatch.setattr(module, "open_client", client)
        return requests

    return be


def answers(status: int, body: object) -> Handler:
    return lambda _: httpx.Response(status, json=body)


Be = Callable[..., list[httpx.Request]]


@pytest.mark.parametrize("status", [200, 201])
async def test_an_order_carries_its_key_and_what_is_to_be_paid(provider: Be, status: int) -> None:
    requests = provider(answers(status, payment()))
    paid = await pay(document(IN_POLICY), D("850.61"))
    assert (paid.id, paid.amount, paid.status, paid.settled_at) == ("pay-1", D("850.61"), "accepted", None)
    (request,) = requests
    assert (request.method, str(request.url)) == ("POST", URL)
    assert request.headers["Idempotency-Key"] == "run-1/step"
    assert request.headers["Authorization"] == "Bearer secret-key"
    assert json.loads(request.content) == {
        "amount": "850.61",
        "currency": "EUR",
        "creditor_name": "Papierhof Lindner OHG",
        "creditor_account": "DE09999000110000527001",
        "reference": "RE-26-1187",
    }


async def test_what_is_absent_is_not_sent_and_long_texts_are_cut(provider: Be) -> None:
    requests = provider(answers(201, payment(amount="1")))
    await pay(invoice(IN_POLICY, payment_account=None, payee="F" * 200, payment_reference=None), D(1))
    sent = json.loads(requests[0].content)
    assert sent == {"amount": "1.00", "currency": "EUR", "creditor_name": "F" * 140, "reference": "RE-26-1187"}


@pytest.mark.parametrize(
    ("read", "amount", "says"),
    [
        (
            document(IN_POLICY),
            "850.62",
            "850.62 is not between 0 and the 850.61 EUR that 01-in-policy.xml leaves",
        ),
        (document(IN_POLICY), "0", "0 is not between"),
        (document(IN_POLICY), "-1", "-1 is not between"),
        (document(IN_POLICY), "NaN", "NaN is not between"),
        (document(IN_POLICY), "Infinity", "Infinity is not between"),
        (document(IN_POLICY), "1.005", "1.005 has more than 2 decimals"),
        (document(CREDIT_NOTE), "1", "05-credit-note.xml leaves nothing to pay"),
        (invoice(OVER_LIMIT, totals__payable=D(0)), "1", "02-over-limit.xml leaves nothing to pay"),
        (invoice(OVER_LIMIT, totals__payable=D(-5)), "5", "02-over-limit.xml leaves nothing to pay"),
    ],
)
async def test_what_must_not_be_paid_is_never_sent(provider: Be, read: Invoice, amount: str, says: str) -> None:
    requests = provider(answers(201, payment()))
    with pytest.raises(PaymentRefused, match=says):
        await pay(read, D(amount))
    assert requests == []


def broken(error: Exception) -> Handler:
    def handle(_: httpx.Request) -> httpx.Response:
        raise error

    return handle


FAILURES: list[tuple[str, Handler, type[PaymentError], bool, str]] = [
    ("down", broken(httpx.ConnectError("refused")), ProviderUnreachable, False, "no connection (refused)"),
    ("slow to connect", broken(httpx.ConnectTimeout("")), ProviderUnreachable, False, "no connection (ConnectTimeout)"),
    ("no answer", broken(httpx.ReadTimeout("")), ProviderTimeout, True, "no answer within 10 seconds"),
    ("cut off", broken(httpx.ReadError("")), ProviderFailed, True, "the connection broke (ReadError)"),
    ("wrong key", answers(401, {"detail": "who are you?"}), PaymentRefused, False, "Set api_key in the block"),
    ("no such route", answers(404, {}), PaymentRefused, False, "status 404 (Not Found)"),
    ("conflict", answers(409, {"detail": "amount differs"}), PaymentConflict, False, "(amount differs)"),
    ("invalid", answers(422, {"detail": "a\n" * 500}), PaymentRefused, False, "status 422 (a a a"),
    ("failed", answers(500, "oops"), ProviderFailed, True, "status 500 (Internal Server Error)"),
    ("busy", answers(503, {"detail": "later"}), ProviderFailed, True, "status 503 (later)"),
    ("redirected", answers(307, {}), ProviderFailed, True, "status 307"),
    ("a web page", lambda _: httpx.Response(200, html="<html>"), ProviderFailed, True, "its answer is not a payment"),
    ("no id", answers(200, {k: v for k, v in payment().items() if k != "id"}), ProviderFailed, True, "(id: Field req"),
    (
        "another amount",
        answers(200, payment(amount="8506.10")),
        PaymentConflict,
        False,
        "over 8506.10 EUR stands",
    ),
    ("another currency", answers(200, payment(currency="USD")), PaymentConflict, False, "over 850.61 USD stands where"),
    ("another key", answers(200, payment(idempotency_key="x")), PaymentConflict, False, "stands where"),
]


@pytest.mark.parametrize(
    ("handler", "error", "maybe", "says"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES]
)
async def test_failures_name_the_address_and_what_may_have_happened(
    provider: Be, handler: Handler, error: type[PaymentError], maybe: bool, says: str
) -> None:
    provider(handler)
    with pytest.raises(error) as caught:
        await pay(document(IN_POLICY), D("850.61"))
    message = str(caught.value)
    assert type(caught.value) is error
    assert caught.value.maybe_ordered is maybe
    assert message.startswith(f"Payment provider at {URL}: ")
    assert says in message
    assert ("may have been ordered" in message) is maybe
    assert "secret-key" not in message
    assert "\n" not in message
    assert len(message) < 600


async def test_the_probe_asks_by_key(provider: Be) -> None:
    requests = provider(answers(200, []))
    assert await find_payment(document(IN_POLICY), D("850.61")) is None
    (request,) = requests
    assert (request.method, request.url.params["idempotency_key"]) == ("GET", "run-1/step")


async def test_the_probe_finds_what_was_ordered(provider: Be) -> None:
    provider(answers(200, [payment(status="settled", settled_at="2026-11-23T12:00:00Z")]))
    found = await find_payment(document(IN_POLICY), D("850.61"), "default")
    assert found is not None
    assert (found.id, found.settled_at) == ("pay-1", datetime(2026, 11, 23, 12, tzinfo=UTC))


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (answers(200, [payment(), payment()]), ProviderFailed),
        (answers(200, [payment(amount="1")]), PaymentConflict),
        (answers(200, payment()), ProviderFailed),
        (answers(404, {}), PaymentRefused),
        (answers(503, {}), ProviderFailed),
    ],
)
async def test_a_probe_that_learns_nothing_does_not_say_nothing_was_paid(
    provider: Be, handler: Handler, error: type[PaymentError]
) -> None:
    provider(handler)
    with pytest.raises(error):
        await find_payment(document(IN_POLICY), D("850.61"))


async def test_a_closed_port_is_named(provider: Be, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = module.open_client
    provider(answers(200, []), base_url="http://127.0.0.1:1")
    monkeypatch.setattr(module, "open_client", opened)
    with pytest.raises(ProviderUnreachable, match=r"http://127\.0\.0\.1:1/payments: no connection"):
        await pay(document(IN_POLICY), D(1))


async def test_silence_is_a_timeout(provider: Be, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = module.open_client
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        provider(answers(200, []), base_url=f"http://127.0.0.1:{port}", timeout_seconds=0.1)
        monkeypatch.setattr(module, "open_client", opened)
        with pytest.raises(ProviderTimeout, match=r"no answer within 0\.1 seconds"):
            await pay(document(IN_POLICY), D(1))


def test_the_block_keeps_its_key_to_itself() -> None:
    block = PaymentProvider(api_key=SecretStr("hush"))
    assert "hush" not in repr(block)
    assert "hush" not in block.model_dump_json()
