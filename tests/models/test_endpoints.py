"""Model endpoints: what a block has to say, and the model that comes of it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from blocks.model_endpoint import ModelEndpoint


@pytest.mark.parametrize(
    ("fields", "kind", "system", "address"),
    [
        ({"provider": "openai", "api_key": "k"}, "OpenAIChatModel", "openai", "https://api.openai.com/v1/"),
        ({"provider": "openai", "base_url": "https://llm.example/v1"}, "OpenAIChatModel", "llm.example",
         "https://llm.example/v1/"),
        ({"provider": "anthropic", "api_key": "k"}, "AnthropicModel", "anthropic", "https://api.anthropic.com"),
        ({"provider": "ollama"}, "OllamaModel", "ollama", "http://127.0.0.1:11434/v1/"),
    ],
)  # fmt: skip
def test_each_provider_gives_its_model(
    fields: dict[str, Any], kind: str, system: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "OLLAMA_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/from-the-environment")
    monkeypatch.setenv("OLLAMA_API_KEY", "from the environment")
    made = ModelEndpoint(model="some-model", **fields).to_model()
    assert (type(made).__name__, made.model_name, made.system) == (kind, "some-model", system)
    assert made.base_url == address
    assert made.settings == {"timeout": 120, "max_retries": 2}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"provider": "openai", "api_key": "k"}, "model"),
        ({"provider": "openai", "model": "m"}, "api_key"),
        ({"provider": "anthropic", "model": "m", "base_url": "https://a.example"}, "api_key"),
        ({"provider": "ollama"}, "model"),
        ({"provider": "openai", "model": "m", "base_url": "llm.example"}, "base_url"),
        ({"provider": "openai", "model": "m", "api_key": "k", "timeout_seconds": 0}, "timeout_seconds"),
        ({"provider": "somebody"}, "provider"),
    ],
)
def test_an_endpoint_that_cannot_be_asked_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        ModelEndpoint(**fields)


def test_offline_there_is_no_model() -> None:
    with pytest.raises(ValueError, match="offline has no model"):
        ModelEndpoint().to_model()


def test_a_key_is_not_shown() -> None:
    made = ModelEndpoint(provider="anthropic", model="m", api_key="very secret")  # type: ignore[arg-type]
    assert "very secret" not in f"{made!r} {made} {made.model_dump_json()}"
