"""The first agents of a new installation start at the same time."""

from __future__ import annotations

import contextlib

import pytest
from prefect.exceptions import ObjectNotFound

from standby.checkpoints import CheckpointStore
from standby.states import RunState
from tests.support.stage import Stage
from tests.support.waiting import together


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_agents_that_start_at_once_on_a_new_server_do_not_disturb_each_other(stage: Stage) -> None:
    """All find no ``CheckpointStore`` block on the server, and all make it."""
    with contextlib.suppress(ObjectNotFound):
        store = await stage.client.read_block_type_by_slug(CheckpointStore.get_block_type_slug())
        await stage.client.delete_block_type(store.id)
    runs = [await stage.start("charging.py:charging", amount=amount) for amount in range(4)]
    assert await together(*(run.rests() for run in runs)) == [RunState.COMPLETED] * 4
    assert [await run.result() for run in runs] == [0, 1, 2, 3]
