"""The ledger's tables. Times are UTC, stored as whole microseconds since 1970, the same on both databases."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Column, Index, Table, Text, UniqueConstraint, false, text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, MetaData, SQLModel

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

metadata = MetaData()


class Instant(TypeDecorator[datetime]):
    """An aware datetime in Python, microseconds since 1970 (UTC) in the database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


class Words(TypeDecorator[str]):
    """Text that may come from anywhere: what a database cannot hold (NUL, half a surrogate pair) becomes U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return _UNSTORABLE.sub("\ufffd", value)


class _Base(SQLModel):
    """Tables of the ledger, apart from any tables a user's own SQLModel classes define."""

    metadata = metadata


def _instant(**kwargs: Any) -> Any:
    return Field(sa_column=Column(Instant, **kwargs))


def _text(**kwargs: Any) -> Any:
    return Field(sa_column=Column(Words, **kwargs))


def _where(condition: str) -> dict[str, Any]:
    """Of an index: only rows of which this is so are in it."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


class Run(_Base, table=True):
    """One agent run. ``attempt`` fences every write; ``holder`` and the lease say who works on it."""

    __tablename__ = "runs"
    __table_args__ = (Index("runs_by_state", "state"),)

    id: str = Field(primary_key=True)  # the Prefect flow run id
    flow: str
    name: str
    deployment_id: str | None = None
    state: str  # states.RunState
    attempt: int
    hold: str | None = None  # states.Hold, while parked
    holder: str | None = None  # runs.Holder of the attempt that works on it, or pauses in its process
    lease_expires_at: datetime | None = _instant(nullable=True)
    wake_address: str | None = None  # where who holds it, or will take it up, hears of a settled wait
    result: str | None = _text(nullable=True)  # JSON
    error: str | None = _text(nullable=True)
    confirmed: bool = False  # Prefect has been seen to know its end
    started_at: datetime = _instant(nullable=False)
    parked_at: datetime | None = _instant(nullable=True)
    ready_at: datetime | None = _instant(nullable=True)
    ended_at: datetime | None = _instant(nullable=True)
    ended_by: str | None = None  # group_key of the waits whose error ended it: its retry opens them again
    ended_after: str | None = None  # id of a state it had in Prefect: who schedules the run after that retries it
    failed_step: str | None = None  # key of the step whose error ended it
    cancelled_by: str | None = None  # who cancelled it, where that is known
    cancelled_door: str | None = None  # states.Door


class Checkpoint(_Base, table=True):
    """One step or wait of a run: its intent, then its value."""

    __tablename__ = "checkpoints"

    run_id: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    position: int | None = None  # order of its start in the agent's own task; none in a racing branch
    kind: str  # states.CheckpointKind
    state: str  # states.CheckpointState
    attempt: int  # the attempt that wrote it
    value: str | None = _text(nullable=True)  # JSON
    spill: str | None = None  # where the value is instead, when it is large
    digest: str | None = None  # blake2b-128 of the JSON text, hexadecimal
    written_at: datetime = _instant(nullable=False)


class Wait(_Base, table=True):
    """One thing a run stops for. Waits of one ``group_key`` were opened together."""

    __tablename__ = "waits"
    __table_args__ = (
        UniqueConstraint("run_id", "key"),
        Index("waits_due", "state", "deadline"),
        Index("waits_by_topic", "topic", "correlation", "state"),
        Index("waits_chased", "state", "chase_at"),
        Index("waits_polled", "state", "poll_at"),
        Index("waits_by_child", "child_run_id"),
        Index("waits_by_agent", "agent", "kind", "opened_at"),
        Index("waits_for_events", "topic", "correlation", **_where("kind = 'event' AND state = 'open'")),
        Index("waits_unannounced", "opened_at", **_where("announced_at IS NULL")),
    )

    id: str = Field(primary_key=True)
    run_id: str
    agent: str | None = None  # the run's flow
    key: str
    group_key: str
    member: int  # place in the group, from 0
    need: str  # states.Need, the same in the whole group
    kind: str  # states.WaitKind
    reason: str = _text(nullable=False)
    party: str | None = None  # who is asked
    topic: str | None = None
    correlation: str | None = None  # the signal's key
    evidence: str | None = _text(nullable=True)  # Markdown shown to who decides
    answer_type: str | None = None  # module:Name, when it can be imported
    answer_schema: str | None = _text(nullable=True)  # JSON Schema
    has_default: bool = False
    default_answer: str | None = _text(nullable=True)  # JSON
    deadline: datetime | None = _instant(nullable=True)
    policy: str | None = _text(nullable=True)  # JSON of policy.Policy, when there is one
    chased: int = Field(default=0, sa_column_kwargs={"server_default": "0"})  # reminders and escalations done
    chase_at: datetime | None = _instant(nullable=True)  # when the next one is due
    child: str | None = _text(nullable=True)  # JSON of waits.Child: the agent that is started and waited for
    child_run_id: str | None = None  # its run, once it was started
    child_attempt: int | None = None  # in which that had failed when it was to be tried again: a later end is another
    poll: str | None = _text(nullable=True)  # JSON of waits.Poll: how the keeper asks the source itself
    polls: int = Field(default=0, sa_column_kwargs={"server_default": "0"})  # done without an answer
    poll_at: datetime | None = _instant(nullable=True)  # when the next one is due
    poll_note: str | None = _text(nullable=True)  # why the last one failed
    state: str  # states.WaitState
    outcome: str | None = None  # states.Outcome
    answer: str | None = _text(nullable=True)  # JSON
    refused: str | None = _text(nullable=True)  # why the last answer did not fit
    fresh: str | None = _text(nullable=True)  # what it is about, as it was when it was asked
    opened_at: datetime = _instant(nullable=False)
    opening: int = Field(default=1, sa_column_kwargs={"server_default": "1"})  # counts up when it is opened again
    asked_since: int = Field(default=1, sa_column_kwargs={"server_default": "1"})  # the opening that first asked this
    announced_at: datetime | None = _instant(nullable=True)
    settled_at: datetime | None = _instant(nullable=True)
    hold: str | None = None  # hold.Asked, where somebody has asked for a way to hold the run
    held: str | None = None  # states.Hold, as the run was held when it parked on this wait
    let_go_at: datetime | None = _instant(nullable=True)  # when it was not held any more, though it still waited
    gib_seconds: float = Field(default=0.0, sa_column_kwargs={"server_default": "0"})  # of memory; the group's first


class Decision(_Base, table=True):
    """One attempt to decide a wait: who, when, through which door, on which evidence, and what became of it."""

    __tablename__ = "decisions"
    __table_args__ = (Index("decisions_by_wait", "wait_id"), Index("decisions_by_run", "run_id"))

    id: str = Field(primary_key=True)
    wait_id: str
    run_id: str
    door: str  # states.Door
    actor: str | None = None
    place: str | None = None  # in whose place the actor decided, where it was delegated
    opening: int = Field(default=1, sa_column_kwargs={"server_default": "1"})  # of the wait
    verdict: str  # states.Verdict
    answer: str | None = _text(nullable=True)  # JSON, as it came
    evidence_digest: str | None = None  # blake2b-128 of the evidence that was shown
    note: str | None = _text(nullable=True)
    decided_at: datetime = _instant(nullable=False)


class Grant(_Base, table=True):
    """A call of a tool that people approved: these arguments, this schema, this once."""

    __tablename__ = "grants"

    run_id: str = Field(primary_key=True)
    key: str = Field(primary_key=True)  # the call's key in the journal
    wait_id: str  # where it was asked
    tool: str
    arguments: str  # digest of the exact arguments that were approved
    tool_schema: str  # digest of the tool's schema as it was then
    given: str  # digest of the call as the model gave it
    fresh: str | None = None  # what the call was about when it was asked, such as an etag
    settled_at: datetime | None = _instant(nullable=True)  # when it was approved
    approver: str | None = None
    door: str | None = None  # states.Door
    given_at: datetime = _instant(nullable=False)
    used_at: datetime | None = _instant(nullable=True)
    attempt: int | None = None  # the one that used it


class Purse(_Base, table=True):
    """What one ``run_agent`` has spent and may spend, where it has started others or another has started it."""

    __tablename__ = "purses"
    __table_args__ = (Index("purses_by_root", "root"), Index("purses_by_run", "run_id"))

    id: str = Field(primary_key=True)  # not to be guessed: who knows it can spend from it
    run_id: str
    parent: str | None = None  # the purse of the agent that started it, which its spending counts to as well
    root: str  # the purse at the top, whose row is the lock of all below it
    limits: str = _text(nullable=False)  # JSON of agents.Budget, what people granted included
    spent: str = _text(nullable=False)  # JSON of agents.Spent: by itself alone
    under_way: str = _text(nullable=False)  # JSON of agents.Spent: what is set aside for requests and calls that act
    began_at: datetime = _instant(nullable=False)


class Signal(_Base, table=True):
    """One message from outside and what became of it."""

    __tablename__ = "signals"
    __table_args__ = (
        UniqueConstraint("source", "delivery_id"),
        Index("signals_by_topic", "topic", "correlation", "disposition"),
        Index("signals_kept", "expires_at", **_where("disposition = 'buffered'")),
    )

    id: str = Field(primary_key=True)
    source: str
    delivery_id: str
    topic: str
    correlation: str | None = None
    payload: str = _text(nullable=False)  # JSON
    disposition: str  # states.Disposition
    wait_id: str | None = None
    note: str | None = _text(nullable=True)
    received_at: datetime = _instant(nullable=False)
    expires_at: datetime | None = _instant(nullable=True)  # while buffered


class Start(_Base, table=True):
    """A run that a signal starts, because no living run has its topic and key. One at a time for each."""

    __tablename__ = "starts"
    __table_args__ = (
        Index("starts_alive", "topic", "correlation", unique=True, **_where("over_at IS NULL")),
        Index("starts_by_signal", "signal_id"),
        Index("starts_by_topic", "topic", "correlation"),
        Index("starts_by_run", "run_id"),
    )

    id: str = Field(primary_key=True)  # Prefect's idempotency key for the run
    signal_id: str
    topic: str
    correlation: str
    deployment: str  # flow/name
    parameters: str = _text(nullable=False)  # JSON
    context_id: str | None = None  # of an A2A task: what its client groups it with
    run_id: str | None = None  # once Prefect has made it
    note: str | None = _text(nullable=True)  # why the last try failed
    created_at: datetime = _instant(nullable=False)
    over_at: datetime | None = _instant(
        nullable=True
    )  # its run has ended: the next signal starts another, unless it lives again
    ended_as: str | None = None  # states.RunState: how its run ended, if it never came to the ledger


class Push(_Base, table=True):
    """Where the client of an A2A task is told of its states, until it has been told of the last one."""

    __tablename__ = "pushes"
    __table_args__ = (Index("pushes_not_done", "task_id", **_where("done_at IS NULL")),)

    task_id: str = Field(primary_key=True)  # of a start, or of a run
    config_id: str = Field(primary_key=True)  # as the client calls it
    key_id: str  # the gateway key of the client
    url: str = _text(nullable=False)
    token: str | None = _text(nullable=True)  # sent along, so that the client knows whom it is from
    scheme: str | None = None  # of the header Authorization, and what follows it there
    credentials: str | None = _text(nullable=True)
    created_at: datetime = _instant(nullable=False)
    told: str | None = None  # ledger.tasks.mark_of the task when the client was told last
    next_try_at: datetime = _instant(nullable=False)
    tries: int = 0  # since it was told last
    done_at: datetime | None = _instant(nullable=True)
    note: str | None = _text(nullable=True)  # why the last try failed, or why there will be no other


class ApiKey(_Base, table=True):
    """Who may use the gateway, and for what. The key itself is not kept."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("digest"),)

    id: str = Field(primary_key=True)
    name: str  # who: stands in the audit
    role: str  # states.Role
    parties: str | None = None  # JSON list of the parties an approver answers for; none: every party
    digest: str  # SHA-256 of the key, hexadecimal
    created_at: datetime = _instant(nullable=False)
    expires_at: datetime | None = _instant(nullable=True)
    revoked_at: datetime | None = _instant(nullable=True)


class Delegation(_Base, table=True):
    """Who decides in somebody's place, until when."""

    __tablename__ = "delegations"

    giver: str = Field(primary_key=True)
    taker: str
    until: datetime | None = _instant(nullable=True)


class Notice(_Base, table=True):
    """Something a party has to be told about a wait, until a channel has taken it."""

    __tablename__ = "notices"
    __table_args__ = (Index("notices_due", "done_at", "next_try_at"),)

    id: str = Field(primary_key=True)
    wait_id: str
    kind: str  # states.NoticeKind
    party: str | None = None
    created_at: datetime = _instant(nullable=False)
    next_try_at: datetime = _instant(nullable=False)
    tries: int = 0
    done_at: datetime | None = _instant(nullable=True)
    note: str | None = _text(nullable=True)  # why the last try failed, or why it was not sent
    personal: bool = Field(default=False, sa_column_kwargs={"server_default": false()})  # to one who may decide
    sent_to: str | None = _text(nullable=True)  # JSON list of the channels, type/name, that have taken it


class Secret(_Base, table=True):
    """A secret that all processes of the ledger share, such as the one that signs approval links."""

    __tablename__ = "secrets"

    name: str = Field(primary_key=True)
    value: str  # hexadecimal
    made_at: datetime = _instant(nullable=False)


class Lease(_Base, table=True):
    """A duty that one process at a time has, such as the keeper's."""

    __tablename__ = "leases"

    name: str = Field(primary_key=True)
    holder: str
    expires_at: datetime = _instant(nullable=False)


class Blob(_Base, table=True):
    """What Prefect persists beside checkpoints: results of flows and errors, under Prefect's own keys."""

    __tablename__ = "blobs"

    key: str = Field(primary_key=True)
    content: str = _text(nullable=False)
    written_at: datetime = _instant(nullable=False)


def table_of(model: type[SQLModel]) -> Table:
    """The SQLAlchemy table behind a model, for statements."""
    return metadata.tables[str(model.__tablename__)]
