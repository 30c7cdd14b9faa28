"""The sweep: on a schedule, start an invoice agent for each new file in the inbox."""

from pathlib import Path

from standby import agent
from tasks.inbox import list_inbox, start_invoice_agent


@agent
async def invoice_sweep(folder: Path) -> list[str]:
    """Start an agent for each invoice in the folder, once for each, however often this runs. The runs' ids.

    Args:
        folder: Where the invoices' files lie, as the worker sees it.
    """
    files = await list_inbox(folder.expanduser())
    new = {file.identity: file for file in reversed(files)}
    return [await start_invoice_agent.with_options(key=identity)(new[identity]) for identity in sorted(new)]
