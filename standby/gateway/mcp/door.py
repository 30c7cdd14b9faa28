"""The protocol's server: it offers the tools and the waits, over streamable HTTP, to who has a key.

It keeps no sessions: each request has its key, and any gateway answers any of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
from fastapi import APIRouter, Request
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from standby.callers import Caller
from standby.errors import AnswerRefused, LedgerUnavailable, NotAllowed, UnknownRun, UnknownWait
from standby.gateway.agents import Agents
from standby.gateway.keys import Allow, given_key
from standby.gateway.limits import BODY_BYTES
from standby.gateway.mcp import tools
from standby.gateway.names import speakable
from standby.gateway.refusals import UNREACHED, Refused
from standby.states import Role
from standby.values import problems_of

log = logging.getLogger("standby.gateway")

PATH = "/mcp"
WAITS = "standby://waits"
JSON = "application/json"

MOST_LISTED = 200
"""Waits that are listed."""


def server(agents: Agents) -> Server[Any]:
    """The server; who asks is in the state of the HTTP request."""

    async def list_tools(*_: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_tool(name, tool) for name, tool in tools.TOOLS.items()])

    async def call_tool(
        context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        tool = tools.TOOLS.get(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"There is no tool {params.name!r}.")
        try:
            given = tool.takes.model_validate(params.arguments or {})
            made = _speakable(await tool.does(agents, _caller(context), given))
        except Exception as error:
            return types.CallToolResult(content=[_text(_why(error, params.name))], is_error=True)
        return types.CallToolResult(content=[_text(json.dumps(made, ensure_ascii=False))], structured_content=made)

    async def list_resources(context: ServerRequestContext[Any, Any], _: Any) -> types.ListResourcesResult:
        caller = _caller(context)
        waits = await tools.waits(agents, caller, MOST_LISTED) if caller.role is not Role.SENDER else []
        listed = [types.Resource(uri=WAITS, name="waits", description="What is waited for now.", mime_type=JSON)]
        listed += [
            types.Resource(uri=f"{WAITS}/{one['id']}", name=one["key"], description=one["reason"], mime_type=JSON)
            for one in waits
        ]
        return types.ListResourcesResult(resources=listed)

    async def list_templates(*_: Any) -> types.ListResourceTemplatesResult:
        one = types.ResourceTemplate(
            uri_template=WAITS + "/{wait_id}", name="wait", mime_type=JSON,
            description="One wait: what is asked, the evidence, the form.",
        )  # fmt: skip
        return types.ListResourceTemplatesResult(resource_templates=[one])

    async def read_resource(
        context: ServerRequestContext[Any, Any], params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        uri, caller = str(params.uri), _caller(context)
        try:
            shown: Any
            if uri == WAITS:
                shown = await tools.waits(agents, caller, MOST_LISTED)
            elif uri.startswith(WAITS + "/"):
                shown = await tools.wait(agents, caller, uri.removeprefix(WAITS + "/"))
            else:
                raise UnknownWait(uri)
        except Exception as error:
            raise MCPError(types.INVALID_PARAMS, _why(error, "resources/read"), {"uri": uri}) from None
        text = json.dumps(_speakable(shown), ensure_ascii=False)
        content = types.TextResourceContents(uri=params.uri, mime_type=JSON, text=text)
        return types.ReadResourceResult(contents=[content])

    return Server(
        "standby",
        title="Standby",
        instructions="Agents that wait. Start a run, inspect it, and where it asks for something answer its wait. "
        "Runs go on by themselves and may take days: look again later rather than wait.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
    )


@asynccontextmanager
async def opened(agents: Agents) -> AsyncIterator[StreamableHTTPSessionManager]:
    """What answers the requests, while the gateway is open."""
    # Whoever has a key may come from anywhere: it is no page in a browser, which has none.
    manager = StreamableHTTPSessionManager(
        server(agents), json_response=True, stateless=True, max_request_body_size=BODY_BYTES
    )
    open_now, enough = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        # A task of its own: what the manager opens has to be closed by the task that opened it.
        async with manager.run():
            open_now.set()
            await enough.wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hold())
        await open_now.wait()
        try:
            yield manager
        finally:
            enough.set()


class _Door:
    """The ASGI application behind the route: lets who has a key in."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        request.state.caller = await Allow(*Role)(request, await given_key(request))
        body = await request.body()
        try:
            speakable(body)
        except ValueError:
            why = "The body is no JSON, or has what is no character or no number."
            error = {"code": types.PARSE_ERROR, "message": why}
            await JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 400)(scope, receive, send)
            return
        manager: StreamableHTTPSessionManager = scope["app"].state.mcp
        await manager.handle_request(scope, _again(body, receive), send)


router = APIRouter(routes=[Route(PATH, _Door(), methods=["POST"], include_in_schema=False)])


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, which was read."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _caller(context: ServerRequestContext[Any, Any]) -> Caller:
    assert context.request is not None
    caller: Caller = context.request.state.caller
    return caller


def _tool(name: str, tool: tools.Tool) -> types.Tool:
    return types.Tool(
        name=name,
        description=tool.says,
        input_schema=tool.takes.model_json_schema(),
        annotations=types.ToolAnnotations(read_only_hint=not tool.changes),
    )


def _why(error: Exception, what: str) -> str:
    """What the caller is told."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{field}: {reason}" for field, reason in problems_of(error))
    if isinstance(error, Refused):
        said = [error.error, *(f"{field}: {reason}" for field, reason in error.problems)]
        return " ".join(said)
    if isinstance(error, LedgerUnavailable):
        return UNREACHED
    if isinstance(error, AnswerRefused | NotAllowed | UnknownRun | UnknownWait):
        return str(error)
    log.error("%s by MCP failed.", what, exc_info=error)
    return "This is a fault of the gateway's, whose log has more."


def _text(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=text.encode("utf-8", "replace").decode())


def _speakable(value: Any) -> Any:
    """The value with halves of surrogate pairs, which JSON may have and this protocol may not, as question marks."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
