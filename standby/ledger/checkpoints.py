"""Statements on checkpoints: the journal of a run, intents, and fenced records."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from standby import clock
from standby.ledger.database import Database
from standby.ledger.prepared import given
from standby.ledger.tables import Blob, Checkpoint, Run, table_of
from standby.states import ENDED, CheckpointKind, CheckpointState, RunState

runs = table_of(Run)
checkpoints = table_of(Checkpoint)
blobs = table_of(Blob)


class Entry(NamedTuple):
    """One line of a run's journal."""

    key: str
    position: int | None
    kind: str
    state: str
    value: str | None
    spill: str | None
    digest: str | None
    attempt: int = 0  # the one that wrote it


_journal = select(
    checkpoints.c.key,
    checkpoints.c.position,
    checkpoints.c.kind,
    checkpoints.c.state,
    checkpoints.c.value,
    checkpoints.c.spill,
    checkpoints.c.digest,
    checkpoints.c.attempt,
).where(checkpoints.c.run_id == bindparam("run"))

_its_attempt = runs.c.id == bindparam("run"), runs.c.attempt == bindparam("fence")
_alive = and_(*(runs.c.state != state for state in sorted(ENDED)))
# What a step has done that outlived the failure of its run must not be done again by the retry.
_may_be_retried = and_(
    runs.c.state == RunState.FAILED,
    bindparam("state", type_=checkpoints.c.state.type) == CheckpointState.RECORDED,
)

_columns = ["run_id", "key", "position", "kind", "state", "attempt", "value", "spill", "digest", "written_at"]

# The row of the run is locked (PostgreSQL; SQLite has one writer anyway), so a takeover cannot commit between
# this statement's look at the attempt number and its own commit.
_fenced_row = (
    select(
        runs.c.id,
        bindparam("key", type_=checkpoints.c.key.type),
        bindparam("position", type_=checkpoints.c.position.type),
        bindparam("kind", type_=checkpoints.c.kind.type),
        bindparam("state", type_=checkpoints.c.state.type),
        runs.c.attempt,
        bindparam("value", type_=checkpoints.c.value.type),
        bindparam("spill", type_=checkpoints.c.spill.type),
        bindparam("digest", type_=checkpoints.c.digest.type),
        bindparam("written_at", type_=checkpoints.c.written_at.type),
    )
    .where(*_its_attempt, or_(_alive, _may_be_retried))
    .with_for_update(read=True, key_share=False)
)


class _Statements:
    def __init__(self, database: Database) -> None:
        insert = sqlite_insert if database.sqlite else postgres_insert
        statement = insert(checkpoints).from_select(_columns, _fenced_row)
        recorded = {
            "state": statement.excluded.state,
            "value": statement.excluded.value,
            "spill": statement.excluded.spill,
            "digest": statement.excluded.digest,
            "attempt": statement.excluded.attempt,
            "written_at": statement.excluded.written_at,
        }
        # What was recorded stays, but for a value that the agent of this very attempt was cut off from.
        went_without = and_(
            checkpoints.c.state == CheckpointState.RECORDED,
            checkpoints.c.attempt == statement.excluded.attempt,
            statement.excluded.state == CheckpointState.FAILED,
        )
        self.record = database.prepared(
            statement.on_conflict_do_update(
                index_elements=["run_id", "key"],
                set_=recorded,
                where=or_(checkpoints.c.state == CheckpointState.INTENDED, went_without),
            )
        )
        alive = select(runs.c.id).where(*_its_attempt, _alive).with_for_update(read=True, key_share=False)
        self.record_wait = database.prepared(
            update(checkpoints)
            .where(
                checkpoints.c.run_id == alive.scalar_subquery(),
                checkpoints.c.key == bindparam("wait"),
                checkpoints.c.state == CheckpointState.INTENDED,
            )
            .values(state=CheckpointState.RECORDED, **given(checkpoints, "value", "digest", "attempt", "written_at"))
        )


class Checkpoints:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._insert = sqlite_insert if database.sqlite else postgres_insert
        self._sql = database.made(_Statements)

    async def journal(self, run_id: str) -> list[Entry]:
        """All of a run's checkpoints, in one query."""
        return list(map(Entry._make, await self._db.read(_journal, {"run": run_id})))

    async def write(
        self,
        run_id: str,
        attempt: int,
        key: str,
        position: int | None,
        state: CheckpointState,
        *,
        value: str | None = None,
        spill: str | None = None,
        digest: str | None = None,
    ) -> bool:
        """Record a step's intent, value or failure, if the attempt still has the run, and that has not ended; a value
        also if it has failed. False when it is not so, or when the key is recorded already.

        A failure also replaces a value that the same attempt wrote, in the moment in which it was cut off: the agent
        went on without it.
        """
        return bool(
            await self._db.write(
                self._sql.record,
                {
                    "run": run_id,
                    "fence": attempt,
                    "key": key,
                    "position": position,
                    "kind": CheckpointKind.STEP,
                    "state": state,
                    "value": value,
                    "spill": spill,
                    "digest": digest,
                    "written_at": clock.utcnow(),
                },
            )
        )

    async def take_back_failure(self, run_id: str, attempt: int, key: str, *, intended: bool) -> None:
        """The failure of a step is recorded no more, if the attempt still has the run, which has not ended.
        ``intended``: its intent stays."""
        mine = select(runs.c.id).where(runs.c.id == run_id, runs.c.attempt == attempt, _alive)
        its = (
            checkpoints.c.run_id == mine.with_for_update(read=True).scalar_subquery(),
            checkpoints.c.key == key,
            checkpoints.c.state == CheckpointState.FAILED,
        )
        if intended:
            nothing = {"value": None, "spill": None, "digest": None}
            await self._db.write(update(checkpoints).where(*its).values(state=CheckpointState.INTENDED, **nothing))
        else:
            await self._db.write(delete(checkpoints).where(*its))

    async def write_wait(self, run_id: str, attempt: int, key: str, value: str, digest: str) -> bool:
        """Record the answers of a wait that was intended, if the attempt still has the run, which has not ended. False
        when it is not so, or when they are recorded already."""
        values = {
            "run": run_id, "fence": attempt, "wait": key, "value": value, "digest": digest, "attempt": attempt,
            "written_at": clock.utcnow(),
        }  # fmt: skip
        return bool(await self._db.write(self._sql.record_wait, values))

    async def count(self, run_id: str) -> int:
        rows = await self._db.read(
            select(func.count())
            .select_from(checkpoints)
            .where(checkpoints.c.run_id == run_id, checkpoints.c.state == CheckpointState.RECORDED)
        )
        return int(rows[0][0])

    async def latest(self, run_ids: list[str]) -> dict[str, str]:
        """The key each run has written last: the step it has done, or the wait it stands at."""
        rows = await self._db.read(
            select(checkpoints.c.run_id, checkpoints.c.key)
            .where(checkpoints.c.run_id.in_(run_ids))
            .order_by(checkpoints.c.written_at, checkpoints.c.position)
        )
        return {row.run_id: row.key for row in rows}

    async def find(self, run_id: str, key: str) -> Entry | None:
        rows = await self._db.read(_journal.where(checkpoints.c.key == key), {"run": run_id})
        return Entry(*rows[0]) if rows else None

    async def put_blob(self, key: str, content: str) -> None:
        """Store what Prefect persists beside checkpoints; the last write wins, as on a file system."""
        statement = self._insert(blobs).values(key=key, content=content, written_at=clock.utcnow())
        await self._db.write(
            statement.on_conflict_do_update(
                index_elements=["key"],
                set_={"content": statement.excluded.content, "written_at": statement.excluded.written_at},
            )
        )

    async def get_blob(self, key: str) -> str | None:
        rows = await self._db.read(select(blobs.c.content).where(blobs.c.key == key))
        return str(rows[0][0]) if rows else None


async def intend_wait(connection: AsyncConnection, run_id: str, attempt: int, key: str, position: int | None) -> None:
    """The checkpoint of a wait that opens, inside a transaction that has locked the run and checked the attempt."""
    await connection.execute(
        checkpoints.insert().values(
            run_id=run_id,
            key=key,
            position=position,
            kind=CheckpointKind.WAIT,
            state=CheckpointState.INTENDED,
            attempt=attempt,
            written_at=clock.utcnow(),
        )
    )
