"""Opens a ledger as soon as it may and takes a lease: ``python -m tests.ledger.connects URL NAME LOCKED_FILE``."""

from __future__ import annotations

import asyncio
import fcntl
import sys
from datetime import timedelta

from standby.ledger import Ledger


async def main(url: str, name: str) -> None:
    ledger = await Ledger.connect(url)
    await ledger.leases.take("keeper", name, timedelta(minutes=1))
    await ledger.close()


if __name__ == "__main__":
    with open(sys.argv[3]) as gate:
        print("here", flush=True)
        fcntl.flock(gate, fcntl.LOCK_SH)
        asyncio.run(main(*sys.argv[1:3]))
