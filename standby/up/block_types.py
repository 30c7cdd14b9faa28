"""The kinds of blocks that Standby reads, so that people can make them in the Prefect UI."""

from __future__ import annotations

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from standby.agents.block import AgentScope
from standby.checkpoints import CheckpointStore
from standby.gateway.webhook_source import WebhookSource
from standby.notices import NotificationChannels

BLOCK_TYPES: tuple[type[Block], ...] = (AgentScope, CheckpointStore, NotificationChannels, WebhookSource)


async def register_block_types(client: PrefectClient) -> None:
    """Make those known to a Prefect server that it does not know, or not as they are today."""
    for block_type in BLOCK_TYPES:
        try:
            await client.read_block_schema_by_checksum(block_type._calculate_schema_checksum())
        except ObjectNotFound:
            await block_type.aregister_type_and_schema(client=client)
