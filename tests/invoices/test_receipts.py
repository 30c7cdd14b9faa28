"""Receipts are whole files with safe names, the same for the same document."""

import asyncio
import json
from decimal import Decimal
from pathlib import Path

import pytest

from tasks.errors import BooksError
from tasks.models import PaymentDecision, Receipt
from tasks.write_receipt import file_name, save_receipt, write_receipt
from tests.invoices.documents import CREDIT_NOTE, IN_POLICY, document, invoice

DECLINED = PaymentDecision(approved=False, comment="no answer")


async def test_a_receipt_is_written_and_says_where(home: Path) -> None:
    receipt = await write_receipt(Receipt.declined(document(IN_POLICY), DECLINED))
    path = home / "receipts" / "DE900000527+invoice+RE-26-1187.json"
    assert receipt.file == str(path)
    assert Receipt.model_validate_json(path.read_text(encoding="utf-8")) == receipt
    assert json.loads(path.read_text(encoding="utf-8"))["payable"] == "850.61"


async def test_writing_twice_leaves_one_file(home: Path) -> None:
    receipt = Receipt.declined(document(IN_POLICY), DECLINED)
    await asyncio.gather(*(write_receipt(receipt) for _ in range(8)))
    assert len(list((home / "receipts").iterdir())) == 1


@pytest.mark.parametrize(
    "number", ["../../etc/passwd", "/etc/passwd", "..", "R2026/0392", "a\x00b", "ü" * 100, "C:\\x"]
)
def test_no_number_leads_out_of_the_folder(tmp_path: Path, number: str) -> None:
    receipt = save_receipt(Receipt.declined(invoice(IN_POLICY, number=number), DECLINED), tmp_path / "receipts")
    assert receipt.file is not None
    assert Path(receipt.file).resolve().parent == tmp_path / "receipts"
    assert Path(receipt.file).is_file()


def test_other_documents_have_other_names() -> None:
    numbers = ["A-B", "A B", "A_B", "A/B", "AB", "ab", "x" * 100, "x" * 99 + "y", "ü" * 100, "ü" * 99 + "u"]
    receipts = [Receipt.declined(invoice(IN_POLICY, number=number), DECLINED) for number in numbers]
    receipts.append(Receipt.declined(invoice(CREDIT_NOTE, number="A-B"), DECLINED))
    assert len({file_name(receipt) for receipt in receipts}) == len(receipts)


def test_what_cannot_be_written_leaves_the_receipt_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = Receipt.declined(document(IN_POLICY), DECLINED)
    before = save_receipt(receipt, tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BooksError, match=r"cannot be written \(No space left on device\)"):
        save_receipt(receipt.model_copy(update={"amount": Decimal(1)}), tmp_path)
    assert before.file is not None
    assert [path.name for path in tmp_path.iterdir()] == [Path(before.file).name]
    assert Receipt.model_validate_json(Path(before.file).read_text(encoding="utf-8")).amount == 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BooksError, match="receipts folder in the block books"):
        save_receipt(Receipt.declined(document(IN_POLICY), DECLINED), tmp_path / "file" / "receipts")
