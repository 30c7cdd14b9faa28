"""Step: write the receipt of a document as a JSON file."""

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from blocks.books import Books
from blocks.loading import load_or_default
from standby import step
from tasks.errors import BooksError
from tasks.models import Receipt


def file_name(receipt: Receipt) -> str:
    """``supplier+kind+number.json``, the same for the same document, whatever characters the sender put into them."""
    name = "+".join(quote(part, safe="") for part in (receipt.supplier_id, receipt.kind, receipt.number))
    if len(name) > 200:  # file systems take 255 bytes
        name = f"{name[:160]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return f"{name}.json"


def save_receipt(receipt: Receipt, folder: Path) -> Receipt:
    """The receipt with its ``file``. Written aside, synced and renamed: a reader sees all of it or the one before.

    Raises BooksError if the folder cannot be written.
    """
    path = folder / file_name(receipt)
    written = receipt.model_copy(update={"file": str(path)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=folder, prefix=".receipt-", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(written.model_dump_json(indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BooksError(
            f"The receipt {path} cannot be written ({error.strerror}). "
            "Check the receipts folder in the block books and the disk's room, then retry the run."
        ) from error
    return written


@step
async def write_receipt(receipt: Receipt, books: str = "default") -> Receipt:
    """As `save_receipt`, in the receipts folder of the block ``books``. Writing twice leaves one file."""
    block = await load_or_default(Books, books)
    return await asyncio.to_thread(save_receipt, receipt, Path(block.receipts_folder))
