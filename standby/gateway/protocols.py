"""The protocols by which other agents come to the gateway, as far as their packages are installed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from standby.gateway.refusals import Refused

DOORS = {
    "a2a": ("A2A", ("/a2a", "/.well-known/agent-card.json")),
    "mcp": ("MCP", ("/mcp",)),
}
"""Each optional extra: what the protocol is called, and where it answers."""


def add_routes(app: FastAPI) -> None:
    """Have the protocols that are installed answered, and the others say that they are not."""
    for extra, (name, paths) in DOORS.items():
        door = _door(extra)
        if door is not None:
            app.include_router(door.router)
        else:
            _say_missing(app, extra, name, paths)


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    """What the protocols' doors need, while the gateway is open."""
    async with AsyncExitStack() as stack:
        for extra in DOORS:
            door = _door(extra)
            if door is not None:
                setattr(app.state, extra, await stack.enter_async_context(door.opened(app.state.agents)))
        yield


def _door(extra: str) -> Any | None:
    try:
        return import_module(f"standby.gateway.{extra}.door")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("standby"):
            raise
        return None


def _say_missing(app: FastAPI, extra: str, name: str, paths: tuple[str, ...]) -> None:
    async def missing(_: Request) -> Response:
        raise Refused(404, f"This gateway does not speak {name}. Install standby[{extra}] where it runs.")

    for path in paths:
        app.add_api_route(path, missing, methods=["GET", "POST"], include_in_schema=False)
