"""The keeper: it outlives whatever goes wrong in a round."""

import asyncio

import pytest
from prefect.client.orchestration import PrefectClient

from standby import settings
from standby.keeper import Keeper
from tests.fundamentals.conftest import Desk
from tests.support.waiting import wait_until


async def test_a_round_that_fails_is_not_the_last(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """An error nobody thought of costs a round, and is logged."""
    rounds = []

    async def due() -> list[object]:
        rounds.append("due")
        if len(rounds) == 1:
            raise KeyError("nobody thought of this")
        return []

    monkeypatch.setattr(desk.ledger.waits, "due", due)
    monkeypatch.setattr(settings, "KEEPER_TICK", settings.KEEPER_TICK / 20)
    keeper = asyncio.create_task(Keeper(desk.ledger, lambda: PrefectClient(desk.url)).run())
    await wait_until(lambda: len(rounds) > 2)
    keeper.cancel()
    assert isinstance((await asyncio.gather(keeper, return_exceptions=True))[0], asyncio.CancelledError)
