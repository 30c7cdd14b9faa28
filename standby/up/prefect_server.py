"""The Prefect server, with two things mended that it has on SQLite: ``python -m standby.up.prefect_server``.

On SQLite a stock server stands still for up to a minute now and then. Each database connection has a thread, which
waits there for another one's write lock, up to 60 seconds, holding the connection's mutex. When meanwhile the garbage
collector, in the event loop, comes by a discarded statement of that connection, it needs the mutex. So the loop waits
for a thread that waits for a lock whose holder waits for the loop. Collected in a thread, only that thread waits.

And a stock server answers 503 to Resume, or to a new run, whenever something else was written meanwhile: its
transactions begin with reading, and SQLite refuses to let one write that has read what is old by now. Those that will
write take the lock when they begin, and wait for it.

Takes the options of ``prefect server start``.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

EVERY = 1.0
"""Seconds between two collections of what is young; each sixtieth is of everything."""


def _collect() -> None:
    for number in range(1, sys.maxsize):
        time.sleep(EVERY)
        gc.collect(2 if number % 60 == 0 else 1)


def _lock_at_the_beginning() -> None:
    from prefect.server.database.configurations import SQLITE_BEGIN_MODE
    from prefect.server.database.configurations import AioSqliteConfiguration as Sqlite

    begin = Sqlite.begin_transaction

    @asynccontextmanager
    async def begin_transaction(
        self: Sqlite, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncIterator[AsyncSessionTransaction]:
        async with begin(self, session, with_for_update=True) as transaction:
            await session.connection()  # which begins
            # Another session that is opened meanwhile, and reads, must not wait for the lock that this one has.
            mode = SQLITE_BEGIN_MODE.set(None)
            try:
                yield transaction
            finally:
                SQLITE_BEGIN_MODE.reset(mode)

    Sqlite.begin_transaction = begin_transaction  # type: ignore[method-assign]


def main() -> None:
    gc.disable()
    sys.argv[:1] = ["prefect", "server", "start"]
    import prefect.server.api.server  # noqa: F401 - what it would load by and by
    from prefect.cli import app

    _lock_at_the_beginning()

    # A million objects that stay: no collection need look at them, which takes a second each time.
    gc.freeze()
    threading.Thread(target=_collect, name="garbage", daemon=True).start()
    app()


if __name__ == "__main__":
    main()
