"""The routes of the protocol on the gateway: the card, and the door for its requests."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from a2a.server.context import ServerCallContext
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from standby import settings
from standby.callers import Caller
from standby.gateway.a2a.card import PATH, card
from standby.gateway.a2a.handler import Handler
from standby.gateway.a2a.wire import plain
from standby.gateway.agents import Agents
from standby.gateway.keys import Allow, given_key
from standby.gateway.names import speakable
from standby.gateway.refusals import Refused
from standby.states import Role

router = APIRouter(include_in_schema=False)


class _WithCaller(DefaultServerCallContextBuilder):
    def build(self, request: Request) -> ServerCallContext:
        context = super().build(request)
        context.state["caller"] = request.state.caller
        context.state["base_url"] = _base_url(request)
        return context


@router.get(AGENT_CARD_WELL_KNOWN_PATH)
async def agent_card(request: Request, given: Annotated[Any, Depends(given_key)]) -> JSONResponse:
    """The card; with the agents in it for who sends a key."""
    agents: Agents = request.app.state.agents
    known = None
    if given is not None:
        await Allow(*Role)(request, given)
        with suppress(Refused):  # Prefect is away, and the rest of the card is as true
            known = await agents.all()
    return JSONResponse(plain(card(_base_url(request), known)))


@router.post(PATH)
async def rpc(request: Request, caller: Annotated[Caller, Depends(Allow(*Role))]) -> Response:
    """A request of the protocol, in JSON-RPC."""
    try:
        # What is JSON to Python and text to no database, nor to this very answer, goes no further.
        speakable(await request.body())
    except ValueError:
        error = {"code": -32700, "message": "The body is no JSON, or has what is no character or no number."}
        return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error})
    request.state.caller = caller
    dispatcher: JsonRpcDispatcher = request.app.state.a2a
    return await dispatcher.handle_requests(request)


@asynccontextmanager
async def opened(agents: Agents) -> AsyncIterator[JsonRpcDispatcher]:
    """What answers the requests, while the gateway is open."""
    # What is refused is told to whom it concerns, and is no error here; what is one, ``translated`` logs.
    logging.getLogger("a2a.server.routes.jsonrpc_dispatcher").setLevel(logging.CRITICAL)
    yield JsonRpcDispatcher(Handler(agents), _WithCaller())


def _base_url(request: Request) -> str:
    return settings.gateway_url() or str(request.base_url).rstrip("/")
