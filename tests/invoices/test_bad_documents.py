"""What cannot be meant is refused, with the file, the place in it, the reason and what to do."""

import os
from decimal import Decimal
from pathlib import Path

import pytest

from tasks import safe_xml, ubl
from tasks.errors import (
    CurrencyMismatch,
    DuplicateElement,
    ForbiddenXml,
    InvalidAmount,
    InvalidField,
    InvoiceError,
    MalformedXml,
    MissingField,
    NotUbl,
    TooLarge,
    UnknownCurrency,
    UnreadableInvoice,
)
from tasks.read_invoice import read_invoice
from tasks.ubl import parse_invoice
from tests.invoices.documents import CREDIT_NOTE, IN_POLICY, OVER_LIMIT, SAMPLES, Edit, document, edited

LAUGHS = b"""<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;"><!ENTITY lol3 "&lol2;&lol2;&lol2;&lol2;">]>
<Invoice xmlns="urn:oasis:names:specification:ubl:schema:xsd:Invoice-2">&lol3;</Invoice>"""
EXTERNAL = b"""<?xml version="1.0"?>
<!DOCTYPE x [<!ENTITY secret SYSTEM "file:///etc/passwd">]>
<Invoice xmlns="urn:oasis:names:specification:ubl:schema:xsd:Invoice-2">&secret;</Invoice>"""
DTD = b'<!DOCTYPE Invoice SYSTEM "https://example.org/evil.dtd"><Invoice/>'
GROSS = '<cbc:PriceAmount currencyID="EUR">23.50</cbc:PriceAmount>'
TOTAL = "cac:LegalMonetaryTotal"
PAYABLE = f"{TOTAL}/cbc:PayableAmount"
PAYS = '<cbc:PayableAmount currencyID="EUR">850.61</cbc:PayableAmount>'
SUPPLIER = "cac:AccountingSupplierParty/cac:Party"
LINE = "cac:InvoiceLine[1]"


def pays(text: str) -> Edit:
    return PAYS, f'<cbc:PayableAmount currencyID="EUR">{text}</cbc:PayableAmount>'


WHOLE: list[tuple[str, bytes, type[InvoiceError], str]] = [
    ("empty", b"", MalformedXml, "no element found"),
    ("cut off", edited(IN_POLICY)[:3000], MalformedXml, "not well-formed"),
    ("not XML", b"%PDF-1.7 ...", MalformedXml, "not well-formed"),
    ("JSON", b'{"invoice": 1}', MalformedXml, "not well-formed"),
    ("wrong bytes", edited(IN_POLICY).replace("ß".encode(), b"\xdf"), MalformedXml, "not well-formed"),
    ("odd encoding", b'<?xml version="1.0" encoding="shift_jis"?><Invoice/>', MalformedXml, "encoding"),
    ("unknown encoding", b'<?xml version="1.0" encoding="klingon"?><Invoice/>', MalformedXml, ""),
    ("billion laughs", LAUGHS, ForbiddenXml, "a document type"),
    ("external entity", EXTERNAL, ForbiddenXml, "a document type"),
    ("external DTD", DTD, ForbiddenXml, "a document type"),
    ("HTML", b"<html><body/></html>", NotUbl, "its root element is html"),
    ("UBL order", edited(IN_POLICY).replace(b"Invoice-2", b"Order-2"), NotUbl, "Order-2"),
    ("no namespace", b"<Invoice/>", NotUbl, "its root element is Invoice"),
    ("deep", b"<a>" * 60 + b"</a>" * 60, TooLarge, "nested more than 50 deep"),
]

FIELDS: list[tuple[str, str, list[Edit], type[InvoiceError], str]] = [
    ("no number", IN_POLICY, [("<cbc:ID>RE-26-1187</cbc:ID>", "")], MissingField, "cbc:ID"),
    ("empty number", IN_POLICY, [("<cbc:ID>RE-26-1187</cbc:ID>", "<cbc:ID> </cbc:ID>")], MissingField, "cbc:ID"),
    (
        "invisible number",
        IN_POLICY,
        [("<cbc:ID>RE-26-1187</cbc:ID>", "<cbc:ID>\u200b\u202e</cbc:ID>")],
        MissingField,
        "cbc:ID",
    ),
    (
        "two numbers",
        IN_POLICY,
        [("<cbc:ID>RE-26-1187</cbc:ID>", "<cbc:ID>RE-26-1187</cbc:ID><cbc:ID>RE-26-1188</cbc:ID>")],
        DuplicateElement,
        "cbc:ID",
    ),
    ("endless number", IN_POLICY, [("RE-26-1187", "9" * 101)], TooLarge, "cbc:ID"),
    ("endless name", IN_POLICY, [("Papierhof Lindner OHG</cbc:Reg", "x" * 1001 + "</cbc:Reg")], TooLarge, SUPPLIER),
    ("no issue date", IN_POLICY, [("<cbc:IssueDate>2026-11-02</cbc:IssueDate>", "")], MissingField, "cbc:IssueDate"),
    ("German date", IN_POLICY, [("2026-11-02", "02.11.2026")], InvalidField, "cbc:IssueDate"),
    ("no such day", IN_POLICY, [("2026-12-02", "2026-11-31")], InvalidField, "cbc:DueDate"),
    ("no type", IN_POLICY, [("<cbc:InvoiceTypeCode>380</cbc:InvoiceTypeCode>", "")], MissingField, "cbc:InvoiceType"),
    ("credit type in an invoice", IN_POLICY, [(">380<", ">381<")], InvalidField, "cbc:InvoiceTypeCode"),
    ("invoice type in a credit note", CREDIT_NOTE, [(">381<", ">380<")], InvalidField, "cbc:CreditNoteTypeCode"),
    ("no currency", IN_POLICY, [("DocumentCurrencyCode>EUR", "DocumentCurrencyCode>")], MissingField, "cbc:Document"),
    ("no such currency", IN_POLICY, [(">EUR<", ">EUX<")], UnknownCurrency, "cbc:DocumentCurrencyCode"),
    ("testing currency", IN_POLICY, [(">EUR<", ">XTS<")], UnknownCurrency, "cbc:DocumentCurrencyCode"),
    ("small currency", IN_POLICY, [(">EUR<", ">eur<")], InvalidField, "cbc:DocumentCurrencyCode"),
    ("another currency", IN_POLICY, [(">EUR<", ">SEK<")], CurrencyMismatch, "cac:TaxTotal/cbc:TaxAmount"),
    ("one amount in USD", IN_POLICY, [('"EUR">850.61<', '"USD">850.61<')], CurrencyMismatch, f"{TOTAL}/cbc:TaxIncl"),
    ("price in USD", IN_POLICY, [('"EUR">23.50', '"USD">23.50')], CurrencyMismatch, f"{LINE}/cac:Price/cbc:PriceAmou"),
    ("no amount currency", IN_POLICY, [(' currencyID="EUR">714.80', ">714.80")], MissingField, "cac:TaxTotal/cac:TaxS"),
    ("no payable", IN_POLICY, [(PAYS, "")], MissingField, PAYABLE),
    ("two payables", IN_POLICY, [(PAYS, PAYS + PAYS)], DuplicateElement, PAYABLE),
    ("NaN", IN_POLICY, [pays("NaN")], InvalidAmount, PAYABLE),
    ("INF", IN_POLICY, [pays("INF")], InvalidAmount, PAYABLE),
    ("exponent", IN_POLICY, [pays("8.5e2")], InvalidAmount, PAYABLE),
    ("comma", IN_POLICY, [pays("850,61")], InvalidAmount, PAYABLE),
    ("thousands", IN_POLICY, [pays("1 850.61")], InvalidAmount, PAYABLE),
    ("underscore", IN_POLICY, [pays("8_50")], InvalidAmount, PAYABLE),
    ("other digits", IN_POLICY, [pays("٨٥٠")], InvalidAmount, PAYABLE),
    ("three decimals", IN_POLICY, [pays("850.614")], InvalidAmount, PAYABLE),
    ("absurd", IN_POLICY, [pays("1" * 13)], InvalidAmount, PAYABLE),
    ("endless", IN_POLICY, [pays("1" * 2000)], TooLarge, PAYABLE),
    ("words", IN_POLICY, [pays("free")], InvalidAmount, PAYABLE),
    ("negative price", IN_POLICY, [(">23.50<", ">-23.50<")], InvalidAmount, f"{LINE}/cac:Price/cbc:PriceAmount"),
    (
        "no units to a price",
        IN_POLICY,
        [('<cbc:BaseQuantity unitCode="C62">1000', '<cbc:BaseQuantity unitCode="C62">0')],
        InvalidAmount,
        "cac:InvoiceLine[2]/cac:Price/cbc:BaseQuantity",
    ),
    ("negative VAT", IN_POLICY, [("<cbc:Percent>19", "<cbc:Percent>-19")], InvalidAmount, "cac:TaxTotal/cac:TaxSubto"),
    ("absurd VAT", IN_POLICY, [("<cbc:Percent>19", "<cbc:Percent>91")], InvalidAmount, "cac:TaxTotal/cac:TaxSubtotal"),
    (
        "an old debt",
        IN_POLICY,
        [(PAYS, '<cbc:PrepaidAmount currencyID="EUR">-500</cbc:PrepaidAmount>' + PAYS)],
        InvalidAmount,
        f"{TOTAL}/cbc:PrepaidAmount",
    ),
    (
        "rounding by a hundred",
        IN_POLICY,
        [(PAYS, '<cbc:PayableRoundingAmount currencyID="EUR">100</cbc:PayableRoundingAmount>' + PAYS)],
        InvalidAmount,
        f"{TOTAL}/cbc:PayableRoundingAmount",
    ),
    (
        "a credit note that asks for money",
        CREDIT_NOTE,
        [('"EUR">55.93</cbc:PayableAmount>', '"EUR">-55.93</cbc:PayableAmount>')],
        InvalidAmount,
        PAYABLE,
    ),
    ("no VAT category", IN_POLICY, [("<cbc:ID>S</cbc:ID>", "")], MissingField, "cac:TaxTotal/cac:TaxSubtotal/cac:TaxC"),
    ("unknown VAT category", IN_POLICY, [("<cbc:ID>S<", "<cbc:ID>Q<")], InvalidField, "cac:TaxTotal/cac:TaxSubtotal"),
    ("no VAT rate", IN_POLICY, [("<cbc:Percent>19</cbc:Percent>", "")], MissingField, "cac:TaxTotal/cac:TaxSubtotal"),
    (
        "no VAT total",
        CREDIT_NOTE,
        [("<cac:TaxTotal>", "<cac:Total>"), ("</cac:TaxTotal>", "</cac:Total>")],
        MissingField,
        "cac:TaxTotal",
    ),
    ("no unit", IN_POLICY, [(' unitCode="C62">20', ">20")], MissingField, f"{LINE}/cbc:InvoicedQuantity/@unitCode"),
    ("no price", IN_POLICY, [(GROSS, "")], MissingField, f"{LINE}/cac:Price/cbc:PriceAmount"),
    ("maybe a charge", OVER_LIMIT, [(">false<", ">perhaps<")], InvalidField, "cac:AllowanceCharge/cbc:ChargeIndicator"),
    (
        "allowance without VAT",
        OVER_LIMIT,
        [("<cac:TaxCategory>", "<cac:Category>"), ("</cac:TaxCategory>", "</cac:Category>")],
        MissingField,
        "cac:AllowanceCharge/cac:TaxCategory",
    ),
]


@pytest.mark.parametrize(("data", "error", "says"), [case[1:] for case in WHOLE], ids=[case[0] for case in WHOLE])
def test_a_file_that_is_no_invoice_says_what_it_is_instead(data: bytes, error: type[InvoiceError], says: str) -> None:
    with pytest.raises(error) as caught:
        parse_invoice(data, "what.xml")
    assert type(caught.value) is error
    assert str(caught.value).startswith("what.xml: document: ")
    assert says in str(caught.value)
    assert caught.value.remedy in str(caught.value)
    assert "root:" not in str(caught.value), "an external entity was read"


@pytest.mark.parametrize(
    ("name", "edits", "error", "field"), [case[1:] for case in FIELDS], ids=[case[0] for case in FIELDS]
)
def test_a_wrong_value_is_named_by_its_place(
    name: str, edits: list[Edit], error: type[InvoiceError], field: str
) -> None:
    with pytest.raises(error) as caught:
        document(name, *edits)
    assert type(caught.value) is error
    assert caught.value.file == name
    assert caught.value.field.startswith(field)
    message = str(caught.value)
    assert message.startswith(f"{name}: {caught.value.field}: ")
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 500


def test_two_vat_totals_in_one_currency_contradict_each_other() -> None:
    text = edited(IN_POLICY).decode()
    start, end = text.index("  <cac:TaxTotal>"), text.index("  <cac:LegalMonetaryTotal>")
    with pytest.raises(DuplicateElement, match="2 VAT totals in EUR"):
        parse_invoice((text[:end] + text[start:end] + text[end:]).encode(), "x.xml")


def test_a_vat_total_in_a_third_currency_is_a_mismatch() -> None:
    other = '<cac:TaxTotal><cbc:TaxAmount currencyID="NOK">1500.00</cbc:TaxAmount></cac:TaxTotal>'
    accounting = "<cbc:TaxCurrencyCode>SEK</cbc:TaxCurrencyCode><cbc:BuyerReference>"
    edits = [("  <cac:LegalMonetaryTotal>", other + "  <cac:LegalMonetaryTotal>"), ("<cbc:BuyerReference>", accounting)]
    with pytest.raises(CurrencyMismatch) as caught:
        document(IN_POLICY, *edits)
    assert caught.value.field == "cac:TaxTotal[2]/cbc:TaxAmount"
    stated = [("  <cac:LegalMonetaryTotal>", other.replace("NOK", "SEK") + "  <cac:LegalMonetaryTotal>"), edits[1]]
    assert document(IN_POLICY, *stated).totals.tax == Decimal("135.81")


def test_a_document_without_lines_is_refused() -> None:
    text = edited(IN_POLICY).decode()
    with pytest.raises(MissingField) as caught:
        parse_invoice((text[: text.index("  <cac:InvoiceLine>")] + "</Invoice>").encode(), "x.xml")
    assert caught.value.field == "cac:InvoiceLine"


def test_more_lines_than_anyone_reads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ubl, "MAX_LINES", 1)
    with pytest.raises(TooLarge, match="2 lines, at most 1"):
        document(IN_POLICY)


def test_more_elements_than_an_invoice_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_xml, "MAX_ELEMENTS", 50)
    with pytest.raises(TooLarge, match="more than 50 elements"):
        document(IN_POLICY)


def test_invisible_characters_do_not_make_another_number() -> None:
    read = document(IN_POLICY, ("<cbc:ID>RE-26-1187<", "<cbc:ID>RE-26\u200b-1187 \u202e<"))
    assert read.number == "RE-26-1187"


async def test_a_file_beyond_ten_mebibytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.xml"
    with path.open("wb") as file:
        file.truncate(10 * 1024 * 1024 + 1)
    with pytest.raises(TooLarge, match=r"huge\.xml: document: it is larger than 10485760 bytes \(10 MiB\)"):
        await read_invoice(path)


async def test_ten_mebibytes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "full.xml"
    data = edited(IN_POLICY)
    path.write_bytes(data + b" " * (10 * 1024 * 1024 - len(data)))
    assert (await read_invoice(path)).number == "RE-26-1187"


async def test_a_missing_file_a_folder_and_a_pipe_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "gone.xml", tmp_path, tmp_path / "pipe"):
        with pytest.raises(UnreadableInvoice, match="there is no file at") as caught:
            await read_invoice(str(path))
        assert caught.value.file == path.name


async def test_utf16_is_read_like_utf8(tmp_path: Path) -> None:
    text = (SAMPLES / IN_POLICY).read_text(encoding="utf-8").replace('encoding="UTF-8"', 'encoding="UTF-16"')
    (tmp_path / "wide.xml").write_text(text, encoding="utf-16")
    assert (await read_invoice(tmp_path / "wide.xml")).lines == document(IN_POLICY).lines
