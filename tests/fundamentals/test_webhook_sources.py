"""A gateway finds the blocks of webhook sources on a real Prefect server."""

from uuid import uuid4

import pytest
from prefect.context import SettingsContext

from standby.gateway import webhook_source
from standby.gateway.webhook_source import WebhookSource, WebhookSources
from tests.fundamentals.conftest import Desk


async def test_a_source_is_found_once_it_has_a_block(
    desk: Desk, prefect_settings: SettingsContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_source, "UNKNOWN_SECONDS", 0)
    monkeypatch.setattr(webhook_source, "LOOK_SECONDS", 30)
    sources, name = WebhookSources(desk.client), f"bank-{uuid4().hex}"
    assert await sources.find(name) is None
    with prefect_settings.model_copy():
        await WebhookSource(scheme="hmac", secrets=["of old", "new"]).asave(name)
    try:
        found = await sources.find(name)
        assert found is not None
        assert [secret.get_secret_value() for secret in found.secrets] == ["of old", "new"]
    finally:
        with prefect_settings.model_copy():
            await WebhookSource.adelete(name)
