"""Step: read an invoice file. The file system is only read, and never beyond the size limit."""

import asyncio
from pathlib import Path

from standby import step
from tasks.errors import TooLarge, UnreadableInvoice
from tasks.models import Invoice
from tasks.safe_xml import MAX_BYTES
from tasks.ubl import parse_invoice


def load_invoice(path: Path) -> Invoice:
    """The invoice in a file of at most 10 MiB.

    Raises UnreadableInvoice if there is no such regular file or it may not be read, or any other `InvoiceError` about
    what is in it; all name the file, not its folder.
    """
    if not path.is_file():
        raise UnreadableInvoice(path.name, "document", f"there is no file at {path}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableInvoice(path.name, "document", f"{path} cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise TooLarge(path.name, "document", f"it is larger than {MAX_BYTES} bytes (10 MiB)")
    return parse_invoice(data, path.name)


@step
async def read_invoice(path: Path | str) -> Invoice:
    return await asyncio.to_thread(load_invoice, Path(path))
