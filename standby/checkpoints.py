"""Where Prefect keeps the results of steps: a result-storage block whose files are rows of the ledger.

A step writes its row itself, fenced by its attempt, before Prefect announces it as completed, because Prefect
announces first and only logs a failed write. When Prefect then persists the result, the block finds the row there.
Anything else Prefect persists through it (a flow's result or error) is kept under Prefect's own key.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from random import uniform
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from prefect._internal.result_records import ResultRecord, ResultRecordMetadata
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectAlreadyExists
from prefect.filesystems import WritableFileSystem
from prefect.serializers import JSONSerializer
from pydantic import Field, SecretStr

from standby import settings, spill
from standby.ledger import Ledger
from standby.ledger.checkpoints import Entry
from standby.ledger.text import digest_of
from standby.states import CheckpointState

STORE_NAME = "standby"
"""Name of the ``CheckpointStore`` block document that agents use."""

SAVE_TRIES = 20
"""How often a process tries to load or save the block, a tenth of a second apart."""

PLAIN_JSON = JSONSerializer(object_encoder="standby.checkpoints.only_errors", object_decoder=None)
"""Reads and writes the values of steps: JSON as it is, nothing is imported to read it."""


class ResultKey:
    """The result of the step under way: its storage key, whether its row is in the ledger, and whether it raised."""

    def __init__(self, run_id: str, key: str) -> None:
        self.storage_key = f"{run_id}/{key}"
        self.recorded = False
        self.raised = False


result_key: ContextVar[ResultKey | None] = ContextVar("standby_result_key", default=None)


def only_errors(value: Any) -> str:
    """What Prefect persists of a step that raised: the message alone, and that is not stored, for the ledger has the
    error whole where the agent goes on from it. Raises ``TypeError`` for what is no error."""
    current = result_key.get()
    if current is None or not isinstance(value, BaseException):
        raise TypeError(f"{type(value).__name__} is not plain JSON.")
    current.raised = True
    return str(value)


class JournalKey(CachePolicy):
    """The cache key of a step is its key in the journal, never a hash of its code or inputs."""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        current = result_key.get()
        return None if current is None else current.storage_key


class CheckpointStore(WritableFileSystem):
    """Checkpoints of agents, in Standby's ledger."""

    _block_type_name: ClassVar[str] = "Checkpoint Store"
    _block_type_slug: ClassVar[str] = "checkpoint-store"
    _description: ClassVar[str] = "Where Standby keeps what agents have done: its ledger, and a place for large values."

    ledger_url: SecretStr = Field(
        default=SecretStr(""),
        title="Ledger URL",
        description="sqlite:///file or postgresql://user:password@host/database. Empty: STANDBY_LEDGER_URL of the"
        " process, or SQLite in its .standby folder.",
    )
    spill_to: str = Field(
        default="",
        title="Large values",
        description="Where values over the limit go: a file system block such as s3-bucket/agents, or a folder."
        " Empty: with PostgreSQL in the ledger all the same, with SQLite in the folder 'spill' beside it.",
    )
    spill_over: int = Field(
        default=settings.SPILL_OVER, ge=1, title="Limit", description="Largest value kept in the ledger, in bytes."
    )

    def resolved_url(self) -> str:
        """The ledger's address: what the process was told, else what the block says, else the data folder."""
        return settings.told_ledger_url() or self.ledger_url.get_secret_value() or settings.default_ledger_url()

    async def read_path(self, path: str) -> bytes:
        current = result_key.get()
        if current is not None and current.storage_key == path and not current.recorded:
            raise ValueError(f"There is no checkpoint {path} yet.")
        run_id, _, key = path.partition("/")
        async with shared_ledger(self.resolved_url()) as ledger:
            if not key:
                blob = await ledger.checkpoints.get_blob(path)
                if blob is None:
                    raise ValueError(f"There is no result {path} in the ledger.")
                return blob.encode()
            entry = await ledger.checkpoints.find(run_id, key)
        if entry is None or entry.state != CheckpointState.RECORDED:
            raise ValueError(f"There is no checkpoint {path} in the ledger.")
        return self._record_of(path, await self.text_of(entry))

    async def write_path(self, path: str, content: bytes) -> None:
        current = result_key.get()
        if current is not None and current.raised:
            current.raised = False
            return
        if current is not None and current.storage_key == path:
            if not current.recorded:
                raise RuntimeError(f"Prefect wanted to persist {path} before Standby recorded it.")
            return
        async with shared_ledger(self.resolved_url()) as ledger:
            await ledger.checkpoints.put_blob(path, content.decode())

    def _resolve_path(self, path: str) -> None:
        """Keys are not paths of this machine."""

    async def keep(self, text: str) -> tuple[str | None, str | None, str]:
        """Prepare a value for its row: ``(value, spill, digest)``, where one of the first two is None."""
        digest = digest_of(text)
        # Without a place that all machines share, large values stay in a ledger that they do share.
        shared = not self.spill_to and not self.resolved_url().startswith("sqlite")
        if len(text) <= self.spill_over or shared:
            return text, None, digest
        return None, await spill.write(self.spill_to, spill.folder_beside(self.resolved_url()), text), digest

    async def text_of(self, entry: Entry) -> str:
        """The JSON text of a recorded checkpoint, whole and undamaged; else a ``ValueError`` that says what is off."""
        text = entry.value
        if text is None:
            if entry.spill is None:
                raise ValueError("it holds no value")
            try:
                text = await spill.read(self.spill_to, spill.folder_beside(self.resolved_url()), entry.spill)
            except Exception as error:
                raise ValueError(f"its large value {entry.spill} cannot be read: {error}") from error
        if digest_of(text) != entry.digest:
            raise ValueError("its value does not match its digest")
        return text

    def _record_of(self, path: str, text: str) -> bytes:
        metadata = ResultRecordMetadata(
            serializer=PLAIN_JSON, storage_key=path, storage_block_id=self._block_document_id
        )
        record: ResultRecord[Any] = ResultRecord(metadata=metadata, result=json.loads(text))
        return record.serialize()


_stores: dict[str, CheckpointStore] = {}


async def load_store(api_url: str) -> CheckpointStore:
    """The ``CheckpointStore`` that agents of this Prefect server use, saved there first if nobody did.

    Loaded once in a process: Prefect would load it again for every task.
    """
    if api_url not in _stores:
        _stores[api_url] = await _loaded_or_saved()
    return _stores[api_url]


async def _loaded_or_saved() -> CheckpointStore:
    # Processes that start together on a new server save it at once: each of the rows it takes may be another's.
    for _ in range(SAVE_TRIES):
        with suppress(ValueError):
            return await _loaded()
        with suppress(ValueError, ObjectAlreadyExists):
            await CheckpointStore().asave(STORE_NAME)
            continue
        await asyncio.sleep(uniform(0.05, 0.2))
    return await _loaded()


async def _loaded() -> CheckpointStore:
    store: object = await CheckpointStore.aload(STORE_NAME)
    assert isinstance(store, CheckpointStore)
    return store


class _Shared:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.users = 0


_open: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Shared]] = WeakKeyDictionary()
_opening: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


@asynccontextmanager
async def shared_ledger(url: str) -> AsyncIterator[Ledger]:
    """The ledger at ``url``, one for all who use it in this event loop at the same time; closed after the last."""
    loop = asyncio.get_running_loop()
    async with _opening.setdefault(loop, asyncio.Lock()):
        ledgers = _open.setdefault(loop, {})
        if url not in ledgers:
            ledgers[url] = _Shared(await Ledger.connect(url))
        shared = ledgers[url]
        shared.users += 1
    try:
        yield shared.ledger
    finally:
        shared.users -= 1
        if not shared.users:
            ledgers.pop(url, None)
            await shared.ledger.close()
