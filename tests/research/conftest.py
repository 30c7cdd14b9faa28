"""A desk for the agents that think, with blocks that a test sets, a web without a network, and channels that note."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from blocks.model_endpoint import ModelEndpoint
from blocks.workspace import Workspace
from standby.notices import NotificationChannels
from tasks import fetch_page as fetching
from tests.fundamentals.conftest import (  # noqa: F401
    SOCKETS,
    Desk,
    Interruption,
    desk,
    desk_url,
    interruption,
    prefect_settings,
)
from tests.support.chat_server import MODEL, ChatServer, chat_server
from tests.tools.web import Web

KEY = "sk-test-a-key-that-nobody-may-see"
READERS = {"readers": ["courier/readers"]}
Blocks = dict[tuple[type[Any], str], Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(SOCKETS)


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blocks:
    """The saved blocks: a workspace in the test's folder, and channels of the party ``readers``."""
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "ferries.md").write_text("The ferry to Oslo sails on Tuesday.")
    saved: Blocks = {
        (Workspace, "default"): Workspace(
            hosts=["example.org"], documents_folder=str(documents), reports_folder=str(tmp_path / "reports")
        ),
        (NotificationChannels, "default"): NotificationChannels(channels=READERS),
    }

    async def load(block: type[Any], name: str = "default") -> Any:
        return saved[block, name] if (block, name) in saved else block()

    for module in ("endpoint_model", "research_tools", "send_message", "apply_policy"):
        monkeypatch.setattr(f"tasks.{module}.load_or_default", load)
    return saved


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What was sent: through which block, subject and body."""
    messages: list[tuple[str, str, str]] = []

    async def send(slug: str, subject: str, body: str, client: Any) -> None:
        messages.append((slug, subject, body))

    monkeypatch.setattr("tasks.send_message.send_through", send)
    return messages


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Web:
    """What `fetch_page` finds."""
    found, fetch = Web(), fetching.fetch_page
    monkeypatch.setattr(
        fetching, "fetch_page", lambda url, **how: fetch(url, **how, resolve=found.resolve, client=found.client)
    )
    return found


@pytest.fixture
async def chat(blocks: Blocks) -> AsyncIterator[ChatServer]:
    """A provider that answers by a script, and is the model of the block ``model-endpoint/default``."""
    async with chat_server() as server:
        fields: dict[str, Any] = {"model": MODEL, "base_url": server.url, "api_key": KEY, "max_retries": 0}
        blocks[ModelEndpoint, "default"] = ModelEndpoint(provider="openai", **fields)
        yield server
