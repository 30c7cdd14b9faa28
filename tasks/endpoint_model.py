"""The language model that a block names, read again as it is used, so that a changed or revoked key takes effect."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.exceptions import FallbackExceptionGroup, ModelAPIError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from blocks.loading import load_or_default
from blocks.model_endpoint import ModelEndpoint
from standby import step
from standby.errors import UsageError

KEPT_SECONDS = 15.0
"""How long blocks are used before a request reads them again. After a wait they are read again in any case."""


async def configured_model(name: str = "default") -> Model | None:
    """The model of the block ``model-endpoint/name``; None where it is offline, or there is no such block.

    Raises ``UsageError`` for fallbacks that are not there or are offline.
    """
    endpoint = await load_or_default(ModelEndpoint, name)
    return None if endpoint.provider == "offline" else EndpointModel(name, await _chain(name, endpoint))


@step(visible=False)
async def is_offline(name: str) -> bool:
    """Whether there was no model when the run began."""
    return (await load_or_default(ModelEndpoint, name)).provider == "offline"


async def model_or_script(name: str, script: Model) -> Model:
    """The model of the block, else the script: for the whole run what it was at the run's beginning. Agent code.

    Raises ``UsageError`` where the run began with a model that is gone: a script does not go on for it.
    """
    if await is_offline(name):
        return script
    found = await configured_model(name)
    if found is None:
        raise UsageError(
            f"This run began with the model of the block model-endpoint/{name}, which is gone or offline. "
            "Choose a provider in it, then retry the run."
        )
    return found


def renewal(model: Model) -> Callable[[], Awaitable[None]] | None:
    """What reads the model's blocks again, for ``run_agent(recheck=...)``; None for a script."""
    return model.renew if isinstance(model, EndpointModel) else None


class EndpointModel(WrapperModel):
    """Asks the model that its block names at the time. Each request has a connection of its own.

    A request raises ``UsageError`` if the block is gone or offline by then: no other model steps in for it.
    """

    def __init__(self, name: str, chain: list[ModelEndpoint]) -> None:
        super().__init__(_model_of(chain))
        self.name = name
        self._chain, self._read_at = chain, monotonic()

    async def renew(self) -> None:
        """Read the blocks now. Raises as a request does."""
        chain = await _chain(self.name, await load_or_default(ModelEndpoint, self.name))
        if chain != self._chain:
            self.wrapped = _model_of(chain)
        self._chain, self._read_at = chain, monotonic()

    async def __aenter__(self) -> EndpointModel:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        async with self._asked() as model:
            return await model.request(messages, model_settings, model_request_parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        async with (
            self._asked() as model,
            model.request_stream(messages, model_settings, model_request_parameters, run_context) as stream,
        ):
            yield stream

    @asynccontextmanager
    async def _asked(self) -> AsyncGenerator[Model]:
        if monotonic() - self._read_at > KEPT_SECONDS:
            await self.renew()
        keys = [key for each in self._chain if (key := each.api_key.get_secret_value())]
        try:
            async with self.wrapped as model:
                yield model
        except (ModelAPIError, FallbackExceptionGroup) as error:
            for each in error.exceptions if isinstance(error, FallbackExceptionGroup) else [error]:
                if isinstance(each, ModelAPIError):
                    _redact(each, keys)
            raise


async def _chain(name: str, endpoint: ModelEndpoint) -> list[ModelEndpoint]:
    """The endpoint and its fallbacks."""
    if endpoint.provider == "offline":
        raise UsageError(f"The block model-endpoint/{name} is gone or offline. Choose a provider in it.")
    chain = [endpoint]
    for other in endpoint.fallbacks:
        fallback = await load_or_default(ModelEndpoint, other)
        if fallback.provider == "offline":
            raise UsageError(
                f"The block model-endpoint/{name} falls back on model-endpoint/{other}, which is not there or offline."
            )
        chain.append(fallback)
    return chain


def _model_of(chain: list[ModelEndpoint]) -> Model:
    first, *others = [endpoint.to_model() for endpoint in chain]
    return FallbackModel(first, *others) if others else first


def _redact(error: ModelAPIError, keys: list[str]) -> None:
    """Some providers repeat the key they refuse, and what went wrong is shown and stored."""
    for key in keys:
        error.message = error.message.replace(key, "[redacted]")
        error.args = tuple(each.replace(key, "[redacted]") if isinstance(each, str) else each for each in error.args)
        if error.body is not None and key in (said := json.dumps(error.body, default=str)):
            error.body = said.replace(key, "[redacted]")
        if error.__cause__ is not None and key in str(error.__cause__):
            error.__cause__ = None
