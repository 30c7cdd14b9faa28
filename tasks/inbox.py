"""Steps of the sweep: look into a folder for invoice files, and start an invoice agent for each."""

from hashlib import sha256
from pathlib import Path
from time import time

from prefect.deployments import arun_deployment
from pydantic import BaseModel

from standby import step
from tasks.check_arithmetic import recompute
from tasks.errors import InvoiceError
from tasks.read_invoice import load_invoice
from tasks.register_invoice import seen_key

SETTLED_SECONDS = 2.0
"""A file that was changed less than this many seconds ago may still be being written; the next sweep takes it."""

AGENT = "invoice-agent/invoices"
"""The deployment that is started for each file."""


class InboxFile(BaseModel):
    """A file in the inbox. ``identity`` is the same for the same invoice, whatever its file is called."""

    path: str
    identity: str


@step(visible=False)
def list_inbox(folder: Path) -> list[InboxFile]:
    """The XML files of the folder that nobody is writing to, by name. An inbox that is not there is empty."""
    if not folder.is_dir():
        return []
    still = time() - SETTLED_SECONDS
    files = sorted(path for path in folder.glob("*.xml") if path.is_file() and path.stat().st_mtime <= still)
    return [InboxFile(path=str(path), identity=identity_of(path)) for path in files]


def identity_of(path: Path) -> str:
    """Supplier, kind and number of a sound invoice; of any other file its content, so that a mended one counts anew."""
    try:
        invoice = load_invoice(path)
        recompute(invoice)
        name = "\x1f".join(seen_key(invoice)).encode()
    except InvoiceError:
        name = path.read_bytes()
    return sha256(name).hexdigest()


@step
async def start_invoice_agent(file: InboxFile) -> str:
    """Start the agent for a file, or find the run that was started for this invoice before. The flow run's id."""
    run = await arun_deployment(
        AGENT,
        parameters={"path": file.path},
        idempotency_key=f"invoice-{file.identity}",
        timeout=0,
        as_subflow=False,
    )
    return str(run.id)
