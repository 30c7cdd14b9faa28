"""Processes that are stopped in the middle of what they do."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import psutil
from sqlalchemy.engine import make_url

from tests.support.waiting import wait_until


async def freeze(pid: int, ledger_url: str) -> None:
    """Stop it where it holds no lock on a SQLite ledger, which it would keep from everybody while frozen."""
    url = make_url(ledger_url)
    ledger = Path(str(url.database)) if url.get_backend_name() == "sqlite" else None

    async def frozen() -> bool:
        os.kill(pid, signal.SIGSTOP)
        await wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, every=0.01)
        if ledger is None or _writable(ledger):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    await wait_until(frozen, every=0.01)


def _writable(ledger: Path) -> bool:
    """Whether nobody is writing in this SQLite database."""
    with closing(sqlite3.connect(ledger, timeout=0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True
