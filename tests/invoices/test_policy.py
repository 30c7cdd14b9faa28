"""The payment policy: what is paid without asking, and in which words a person is asked."""

from decimal import Decimal

import pytest

from blocks.payment_policy import PaymentPolicy
from tasks.apply_policy import apply_policy, is_iban, judge
from tasks.match_order import match
from tasks.models import Difference, DifferenceKind, Invoice, Match
from tests.invoices.documents import (
    CREDIT_NOTE,
    IN_POLICY,
    NO_ORDER,
    ORDERS,
    OVER_LIMIT,
    PRICE_DIFFERS,
    document,
    invoice,
)

D = Decimal


async def judged(document: Invoice, books_url: str, **policy: object) -> Match:
    return judge(document, await match(document, books_url, ORDERS), PaymentPolicy(**policy))


@pytest.mark.parametrize(
    ("name", "approvers", "reasons"),
    [
        (IN_POLICY, 1, []),
        (OVER_LIMIT, 2, ["7,380.00 EUR is above the limit of 1,000.00 EUR"]),
        (
            PRICE_DIFFERS,
            1,
            [
                "line 1 price: ordered 58 EUR, invoiced 64 EUR (+10.34 %)",
                "order total without VAT: ordered 696.00 EUR, invoiced 768.00 EUR (+10.34 %)",
            ],
        ),
        (NO_ORDER, 1, ["no purchase order was found"]),
        (CREDIT_NOTE, 1, []),
    ],
)
async def test_the_samples_are_judged_by_the_default_policy(
    books_url: str, name: str, approvers: int, reasons: list[str]
) -> None:
    """Of the samples one needs two people."""
    read = document(name)
    found = await judged(read, books_url)
    assert found.reasons == reasons
    assert found.within_policy == (not reasons)
    assert found.suggested_amount == max(read.amount_due, D(0))
    assert found.approvers == approvers


@pytest.mark.parametrize(
    ("change", "policy", "approvers"),
    [
        ({}, {"two_approvers_from": {"EUR": "7380.00"}}, 2),
        ({}, {"two_approvers_from": {"EUR": "7380.01"}}, 1),
        ({}, {"two_approvers_from": {"SEK": 10}}, 2),  # nobody has said from where in EUR
        ({"totals__prepaid": D("2380.01"), "totals__payable": D("4999.99")}, {}, 1),  # it is what is due that counts
        ({"totals__prepaid": D(7380), "totals__payable": D(0)}, {"two_approvers_from": {}}, 1),
        ({}, {"auto_approve_up_to": {"EUR": 10000}}, 2),  # and nobody is asked: it says how many, not whether
    ],
)
def test_from_an_amount_due_on_two_people_have_to_approve(
    change: dict[str, object], policy: dict[str, object], approvers: int
) -> None:
    read = invoice(OVER_LIMIT, **change)
    facts = Match(
        number="1", source="x", kind="invoice", supplier="x", currency="EUR", payable=D(1), tax_exclusive=D(1),
        order_id="PO",
    )  # fmt: skip
    found = judge(read, facts, PaymentPolicy(**policy))
    assert found.approvers == approvers
    assert found.within_policy == (policy.get("auto_approve_up_to") is not None or read.amount_due == 0)


ANY_ACCOUNT = {"require_order": False, "require_iban": False}
POLICIES: list[tuple[str, str, dict[str, object], dict[str, object], list[str]]] = [
    ("at the limit", IN_POLICY, {}, {"auto_approve_up_to": {"EUR": "850.61"}}, []),
    ("a cent over", IN_POLICY, {}, {"auto_approve_up_to": {"EUR": "850.60"}}, ["above the limit of 850.60 EUR"]),
    ("no limit known", IN_POLICY, {}, {"auto_approve_up_to": {}}, ["above the limit of 0.00 EUR"]),
    ("otherwise", IN_POLICY, {}, {"auto_approve_up_to": {}, "auto_approve_otherwise": 900}, []),
    ("no order needed", NO_ORDER, {}, {"require_order": False}, []),
    (
        "unknown order",
        NO_ORDER,
        {"order_reference": "PO-9"},
        {"require_order": False},
        ["no such order"],
    ),
    ("tolerant", PRICE_DIFFERS, {}, {"price_tolerance_percent": "10.34"}, []),
    ("cheaper", IN_POLICY, {"lines__0__net": D(400)}, {}, []),
    ("blocked by VAT number", IN_POLICY, {}, {"blocked_suppliers": ["de 900 000 527"]}, ["is a blocked supplier"]),
    ("blocked by address", IN_POLICY, {}, {"blocked_suppliers": ["9930:DE900000527"]}, ["is a blocked supplier"]),
    ("others blocked", IN_POLICY, {}, {"blocked_suppliers": ["DE1"]}, []),
    ("factoring", IN_POLICY, {"payee": "Faktor AG"}, {}, ["Faktor AG is to be paid, not the supplier"]),
    ("no account", IN_POLICY, {"payment_account": None}, {}, ["names no account to pay to"]),
    (
        "changed account",
        IN_POLICY,
        {"payment_account": "DE62999000110000812003"},
        {},
        ["account to pay to: ordered DE09999000110000527001, invoiced DE62999000110000812003"],
    ),
    ("no IBAN", NO_ORDER, {"payment_account": "123-4567"}, {"require_order": False}, ["123-4567 is not a valid IBAN"]),
    (
        "IBAN is no matter",
        NO_ORDER,
        {"payment_account": "123-4567"},
        {"require_order": False, "require_iban": False},
        [],
    ),
    ("direct debit", IN_POLICY, {"payment_means": "59"}, {}, ["collects the money itself (direct debit)"]),
    ("paid in advance", OVER_LIMIT, {"totals__prepaid": D(7380), "totals__payable": D(0)}, {}, []),
    ("negative", IN_POLICY, {"totals__payable": D("-5.00")}, {}, ["a negative invoice: the supplier owes 5.00 EUR"]),
    ("large credit", CREDIT_NOTE, {"totals__payable": D(50000)}, {}, []),
    ("credit without order", CREDIT_NOTE, {"order_reference": None}, {}, ["no purchase order was found"]),
]


@pytest.mark.parametrize(
    ("name", "change", "policy", "reasons"), [case[1:] for case in POLICIES], ids=[case[0] for case in POLICIES]
)
async def test_policies(
    books_url: str, name: str, change: dict[str, object], policy: dict[str, object], reasons: list[str]
) -> None:
    found = await judged(invoice(name, **change), books_url, **policy)
    assert len(found.reasons) == len(reasons), found.reasons
    for reason, part in zip(found.reasons, reasons, strict=True):
        assert part in reason


@pytest.mark.parametrize("kind", ["order", "supplier", "currency", "line", "unit", "quantity", "account"])
def test_only_prices_and_totals_have_a_tolerance(kind: DifferenceKind) -> None:
    read = document(IN_POLICY)
    difference = Difference(kind=kind, where="x", ordered="1", invoiced="1", over_percent=D("0.01"))
    facts = Match(
        number="1", source="x", kind="invoice", supplier="x", currency="EUR", payable=D(1), tax_exclusive=D(1),
        order_id="PO", differences=[difference],
    )  # fmt: skip
    assert judge(read, facts, PaymentPolicy()).reasons == ["x: ordered 1, invoiced 1 (+0.01 %)"]
    free = difference.model_copy(update={"kind": "price", "over_percent": None})
    assert not judge(read, facts.model_copy(update={"differences": [free]}), PaymentPolicy()).within_policy


async def test_the_account_of_the_order_is_suggested_else_the_policy_s(books_url: str) -> None:
    assert (await judged(document(IN_POLICY), books_url)).suggested_account == "4930"
    assert (await judged(document(NO_ORDER), books_url, default_account="6640")).suggested_account == "6640"


async def test_the_step_uses_the_default_policy(books_url: str) -> None:
    read = document(OVER_LIMIT)
    found = await apply_policy(read, await match(read, books_url, ORDERS))
    assert (found.within_policy, found.suggested_amount) == (False, D("7380.00"))


async def test_judging_again_gives_the_same(books_url: str) -> None:
    read = document(PRICE_DIFFERS)
    once = await judged(read, books_url)
    assert judge(read, once, PaymentPolicy()) == once


@pytest.mark.parametrize(
    ("account", "valid"),
    [
        ("DE09999000110000527001", True),
        ("NL97ZZZZ0900006630", True),
        ("DE10999000110000527001", False),
        ("DE09999000110000572001", False),
        ("IBAN32423940", False),
        ("DE09", False),
        ("", False),
    ],
)
def test_iban_check_digits(account: str, valid: bool) -> None:
    assert is_iban(account) is valid
