"""Housekeeping: the keeper's round as a scheduled flow, where only stock workers run and no keeper process does."""

from prefect import flow, get_client

from standby.checkpoints import load_store, shared_ledger
from standby.keeper import Keeper


@flow
async def housekeeping() -> bool:
    """One round: deadlines, rescue, missed wakes. False when a keeper is at work anyway."""
    async with get_client() as client:
        store = await load_store(str(client.api_url))
    async with shared_ledger(store.resolved_url()) as ledger:
        return await Keeper(ledger, get_client).once()
