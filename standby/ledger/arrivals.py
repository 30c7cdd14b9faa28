"""Writing many signals down at once, and finding the open waits that they are for.

On PostgreSQL by two statements, each of which does what several would: a trip to the server costs as much as its work,
and an agent waits meanwhile. The first one takes the locks of topics and keys, so that the second one sees what was
committed before it had them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import Row, Text, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ClauseElement

from standby import clock
from standby.ledger.database import Database, among, listed
from standby.ledger.delivering import KEPT_FOR, Misfit, lock_name
from standby.ledger.prepared import given, unnested
from standby.ledger.settling_many import with_run
from standby.ledger.starts import NewStart
from standby.ledger.tables import Run, Signal, Wait, table_of
from standby.states import BY_SIGNAL, ENDED, Disposition, WaitState

runs = table_of(Run)
waits = table_of(Wait)
signals = table_of(Signal)

LOCK_WAITS = "500ms"
"""How long a transaction that takes signals in waits for a lock, where it cannot pass over it."""


class Incoming(NamedTuple):
    """A signal as it comes. ``payload`` is JSON text."""

    source: str
    delivery_id: str
    topic: str
    correlation: str | None
    payload: str
    misfit: Misfit | None
    start: NewStart | None


class Arrival(NamedTuple):
    """A signal that is new: the open wait it is for, if there is one, and its row with ``run_state`` and
    ``run_wake_address``, locked, or None where somebody else has locked it."""

    wait_id: str | None
    wait: Row[Any] | None


_oldest_open = (
    select(waits.c.id)
    .join(runs, runs.c.id == waits.c.run_id)
    .where(
        waits.c.topic == signals.c.topic,
        waits.c.correlation == signals.c.correlation,
        waits.c.kind.in_(BY_SIGNAL),
        waits.c.state == WaitState.OPEN,
        runs.c.state.not_in(ENDED),
    )
    .order_by(waits.c.opened_at, waits.c.id)
    .limit(1)
    .correlate(signals)
    .scalar_subquery()
)

_OWN = ("id", "source", "delivery_id", "topic", "correlation", "payload")
_SAME = ("disposition", "received_at", "expires_at")


class _Statements:
    def __init__(self, database: Database) -> None:
        insert = sqlite_insert if database.sqlite else postgres_insert
        row = given(signals, *_OWN, *_SAME)
        self.write = database.prepared(insert(signals).values(row).on_conflict_do_nothing())
        self.write_free = None if database.sqlite else database.prepared(_write_free())
        found = (
            select(signals.c.id.label("signal_id"), _oldest_open.label("wanted"))
            .where(among(signals.c.id, "signals", database))
            .cte("found")
        )
        locked = with_run(waits.c.id.in_(select(found.c.wanted))).cte("locked")
        both = found.outerjoin(locked, locked.c.id == found.c.wanted)
        self.arrived = select(found.c.signal_id, found.c.wanted, locked).select_from(both)
        self.undo = delete(signals).where(among(signals.c.id, "signals", database))


def _write_free() -> ClauseElement:
    """Lock the topics and keys that nobody else has locked, and write down what is for them. In one order in all
    transactions: one of two that write the same delivery, for two keys, waits for the other."""
    one = unnested("one", name=Text(), **{name: signals.c[name].type for name in _OWN})
    lock = func.pg_try_advisory_xact_lock(func.hashtextextended(one.c.name, 0))
    patience = func.set_config("lock_timeout", LOCK_WAITS, True)
    tried = select(one, lock.label("is_free"), patience).cte("tried").prefix_with("MATERIALIZED")
    same = (bindparam(f"each_{name}", type_=signals.c[name].type) for name in _SAME)
    rows = (
        select(*(tried.c[name] for name in _OWN), *same)
        .where(tried.c.is_free)
        .order_by(tried.c.source, tried.c.delivery_id)
    )
    written = postgres_insert(signals).from_select([*_OWN, *_SAME], rows, include_defaults=False)
    return written.on_conflict_do_nothing()


class Arrivals:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._sql = database.made(_Statements)

    async def write(self, connection: AsyncConnection, batch: dict[str, Incoming]) -> dict[str, Arrival]:
        """Write down those of a batch that are new, and find their waits; by id, without those that were there. On
        PostgreSQL also without those whose topic and key somebody else has locked just then."""
        same = _same()
        if self._sql.write_free is None:
            await self._sql.write.many(connection, [_own(*one) | same for one in batch.items()])
        else:
            own = [_own(*one) for one in batch.items()]
            names = [lock_name((one.topic, one.correlation)) for one in batch.values()]
            values = {f"{name}s": [row[name] for row in own] for name in _OWN} | {"names": names}
            values |= {f"each_{name}": value for name, value in same.items()}
            await self._sql.write_free.many(connection, [values])
        found = await connection.execute(self._sql.arrived, {"signals": listed(batch, self._db)})
        return {row.signal_id: Arrival(row.wanted, row if row.id is not None else None) for row in found}

    async def write_one(self, connection: AsyncConnection, signal_id: str, one: Incoming) -> bool:
        """Write one down whose topic and key are locked. False when it was there."""
        return bool(await self._sql.write.many(connection, [_own(signal_id, one) | _same()]))

    async def undo(self, connection: AsyncConnection, signal_ids: Collection[str]) -> None:
        if signal_ids:
            await connection.execute(self._sql.undo, {"signals": listed(signal_ids, self._db)})


def _own(signal_id: str, one: Incoming) -> dict[str, Any]:
    return {
        "id": signal_id, "source": one.source, "delivery_id": one.delivery_id, "topic": one.topic,
        "correlation": one.correlation, "payload": one.payload,
    }  # fmt: skip


def _same() -> dict[str, Any]:
    """What the rows of signals that come now have in common, as long as nothing else has become of them."""
    now = clock.utcnow()
    return {"disposition": Disposition.BUFFERED, "received_at": now, "expires_at": now + KEPT_FOR}
