"""A model endpoint that leads to a scripted server, and no Prefect server: the block's document is a variable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from blocks.model_endpoint import ModelEndpoint
from tests.support.chat_server import MODEL, ChatServer, chat_server

KEY = "sk-test-a-key-that-nobody-may-see"


@pytest.fixture
async def chat() -> AsyncIterator[ChatServer]:
    async with chat_server() as server:
        yield server


@pytest.fixture
def endpoints(chat: ChatServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, ModelEndpoint]:
    """The saved blocks by name; ``default`` leads to the server."""
    saved = {"default": endpoint(chat)}

    async def load(block: type[Any], name: str = "default") -> Any:
        return saved[name] if name in saved else block()

    monkeypatch.setattr("tasks.endpoint_model.load_or_default", load)
    return saved


def endpoint(chat: ChatServer, **changes: Any) -> ModelEndpoint:
    fields: dict[str, Any] = {"provider": "openai", "model": MODEL, "base_url": chat.url, "api_key": KEY} | changes
    return ModelEndpoint(**fields)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass for the age of what was read of a block."""
    passed = [0.0]
    monkeypatch.setattr("tasks.endpoint_model.monotonic", lambda: passed[0])

    def later(seconds: float) -> None:
        passed[0] += seconds

    return later
