"""Which language model agents think with, and where it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, model_validator

if TYPE_CHECKING:
    from pydantic_ai.models import Model

OPENAI = "https://api.openai.com/v1"
ANTHROPIC = "https://api.anthropic.com"
OLLAMA = "http://127.0.0.1:11434/v1"
NO_KEY = "none"
"""Sent where there is no key; else one in the environment would be, whoever it is for."""


class ModelEndpoint(Block):
    """A language model and where it is asked.

    The default is no model: ``offline``. An agent then uses the script it brings along, which no model has written.
    """

    _block_type_name = "Model Endpoint"
    _block_type_slug = "model-endpoint"
    _description = "The language model that agents think with: provider, address, key, and what to use if it fails."

    provider: Literal["offline", "openai", "anthropic", "ollama"] = Field(
        default="offline",
        title="Provider",
        description="openai is anything that speaks its chat protocol; offline uses no model, only scripted answers.",
    )
    model: str = Field(
        default="", title="Model", description="The model's name, as the provider calls it. Not needed offline."
    )
    base_url: str = Field(
        default="",
        title="Address",
        description="Where the provider listens: up to and with /v1, for anthropic without it. Empty: the provider's "
        "own, or Ollama's on this machine.",
        pattern=r"^(https?://[^\s]+)?$",
    )
    api_key: SecretStr = Field(
        default=SecretStr(""), title="API key", description="Sent with every request. Empty where none is asked for."
    )
    timeout_seconds: float = Field(
        default=120, title="Timeout (seconds)", description="How long one request may take.", gt=0, le=3600
    )
    max_retries: int = Field(
        default=2,
        title="Retries",
        description="How often a request is sent again after an error that may pass, as long as the provider says.",
        ge=0,
        le=10,
    )
    fallbacks: list[str] = Field(
        default=[],
        title="Fallbacks",
        description="Names of other model endpoints that are asked, in this order, if this one fails.",
    )

    @model_validator(mode="after")
    def _can_be_asked(self) -> ModelEndpoint:
        if self.provider != "offline" and not self.model.strip():
            raise ValueError(f"model: name the model that {self.provider} is asked for")
        needs_key = self.provider == "anthropic" or (self.provider == "openai" and not self.base_url)
        if needs_key and not self.api_key.get_secret_value():
            raise ValueError(f"api_key: {self.provider} takes no request without a key")
        return self

    def to_model(self) -> Model:
        """The model, as pydantic-ai knows it, without its fallbacks. Needs the extra ``models``; not offline."""
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.settings import ModelSettings

        key = self.api_key.get_secret_value() or None
        settings = ModelSettings(timeout=self.timeout_seconds, max_retries=self.max_retries)
        match self.provider:
            case "anthropic":
                from pydantic_ai.models.anthropic import AnthropicModel
                from pydantic_ai.providers.anthropic import AnthropicProvider

                there = AnthropicProvider(api_key=key, base_url=self.base_url or ANTHROPIC)
                return AnthropicModel(self.model, provider=there, settings=settings)
            case "ollama":
                from pydantic_ai.models.ollama import OllamaModel
                from pydantic_ai.providers.ollama import OllamaProvider

                here = OllamaProvider(base_url=self.base_url or OLLAMA, api_key=key or NO_KEY)
                return OllamaModel(self.model, provider=here, settings=settings)
            case "openai" if not self.base_url or urlsplit(self.base_url).hostname == urlsplit(OPENAI).hostname:
                from pydantic_ai.providers.openai import OpenAIProvider

                openai = OpenAIProvider(base_url=self.base_url or OPENAI, api_key=key)
                return OpenAIChatModel(self.model, provider=openai, settings=settings)
            case "openai":
                from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

                name = urlsplit(self.base_url).hostname or "openai-compatible"
                other = OpenAICompatibleProvider(name, base_url=self.base_url, api_key=key or NO_KEY)
                return OpenAIChatModel(self.model, provider=other, settings=settings)
            case "offline":
                raise ValueError("An endpoint that is offline has no model. Choose a provider in the block.")
