"""Attempts of a run in this process without Prefect, for agents that do not wait: at a tenth of the cost."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from standby.attaching import attach
from standby.checkpoints import CheckpointStore
from standby.flows import _attempt
from standby.ledger import Ledger
from standby.states import Hold, RunState
from standby.values import Codec
from tests.fundamentals.conftest import Interrupted


class BenchRun:
    """One run, attempt by attempt."""

    def __init__(self, bench: "Bench", work: Callable[[], Awaitable[Any]], hold: Hold = Hold.PAUSE) -> None:
        self.bench, self.work, self.hold = bench, work, hold
        self.id = str(uuid4())

    async def result(self) -> Any:
        """One more attempt; what it returns or raises."""

        async def retried(_: Any) -> bool:
            return True

        async with attach(
            self.id, flow="bench", name="bench", deployment_id=None, hold=self.hold, store=self.bench.store,
            is_retry=retried,
        ) as run:  # fmt: skip
            text, value = await _attempt(run, self.work, (), {}, Codec(lambda: Any))
            assert await run.ledger.runs.end(run.id, run.attempt, RunState.COMPLETED, result=text)
            return value

    again = result

    async def journal(self) -> dict[str, str]:
        entries = await self.bench.ledger.checkpoints.journal(self.id)
        entries.sort(key=lambda entry: (entry.position is None, entry.position, entry.key))
        return {entry.key: entry.state for entry in entries}


class Bench:
    def __init__(self, ledger: Ledger, url: str) -> None:
        self.ledger = ledger
        self.store = CheckpointStore(ledger_url=SecretStr(url))

    async def start(self, work: Callable[[], Awaitable[Any]], hold: Hold = Hold.PAUSE) -> BenchRun:
        return BenchRun(self, work, hold)

    async def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        return await BenchRun(self, work).result()

    async def interrupted(self, work: Callable[[], Awaitable[Any]]) -> BenchRun:
        """A run whose first attempt has been interrupted."""
        run = BenchRun(self, work)
        with pytest.raises(Interrupted):
            await run.result()
        return run
