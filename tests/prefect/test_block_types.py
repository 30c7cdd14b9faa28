"""The kinds of blocks that Standby reads are known to Prefect once it is up, and made known once."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient

from standby.up import block_types
from standby.up.block_types import BLOCK_TYPES, register_block_types
from tests.support.server import PrefectServer


def kind(slug: str, **fields: Any) -> type[Block]:
    return type("Kind", (Block,), {"_block_type_name": slug, "_block_type_slug": slug, "__annotations__": fields})


async def test_kinds_that_are_missing_or_have_changed_are_made_known_and_no_others(
    prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slug = f"kind-{uuid4().hex[:8]}"
    asked: list[str] = []

    async def note(response: Any) -> None:
        asked.append(f"{response.request.method} {response.status_code}")

    async with PrefectClient(prefect_server.url) as client:
        client._client.event_hooks["response"].append(note)
        for fields in ({"topic": str}, {"topic": str, "key_at": str}):
            monkeypatch.setattr(block_types, "BLOCK_TYPES", (kind(slug, **fields),))
            await register_block_types(client)
            block_type = await client.read_block_type_by_slug(slug)
            schema = await client.get_most_recent_block_schema_for_block_type(block_type.id)
            assert schema is not None
            assert set(schema.fields["properties"]) == set(fields)
            asked.clear()
            await register_block_types(client)
            assert asked == ["GET 200"], "what is known is asked for once, and left alone"


async def test_the_kinds_that_the_documentation_names_are_among_them(prefect_server: PrefectServer) -> None:
    async with PrefectClient(prefect_server.url) as client:
        await register_block_types(client)
        for slug in ("checkpoint-store", "notification-channels", "webhook-source"):
            assert slug in {block_type.get_block_type_slug() for block_type in BLOCK_TYPES}
            assert (await client.read_block_type_by_slug(slug)).slug == slug
