"""The gateway's HTTP application. It answers 2xx only after the ledger's transaction."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Body, Depends, FastAPI, Path, Query, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from standby import view
from standby.callers import Caller
from standby.connect import Place
from standby.errors import UnknownWait
from standby.gateway import protocols
from standby.gateway.agents import Agents
from standby.gateway.answering import AnswerOut, answered
from standby.gateway.keys import Allow
from standby.gateway.limits import Limits
from standby.gateway.links import links
from standby.gateway.names import Name
from standby.gateway.reception import Reception
from standby.gateway.refusals import Refusal, Refused, answer_refusals
from standby.gateway.requests import shallow_body, some_body, topic_of
from standby.gateway.webhooks import Inbox, webhooks
from standby.ledger import Ledger
from standby.starts import ToStart
from standby.states import Disposition, Door, Role, WaitKind

DESCRIPTION = (
    "Where signals and answers come in for agents that wait.\n\n"
    "Other agents come in at `POST /a2a` (Agent2Agent, with its card at `GET /.well-known/agent-card.json`) and "
    "`POST /mcp` (Model Context Protocol, over streamable HTTP). These protocols describe themselves, and are not "
    "listed here."
)

NO_INTERNET = (
    "This page is made by Swagger UI, which the browser loads from cdn.jsdelivr.net. Without internet, read "
    '<a href="openapi.json">openapi.json</a>, with any program for OpenAPI.'
)


class SignalIn(BaseModel):
    """A signal for the run that waits for its topic and key, or will."""

    model_config = ConfigDict(extra="forbid")

    key: Name | None = Field(default=None, description="The correlation, such as an order number.")
    delivery_id: Name | None = Field(
        default=None,
        description="The same one again from the same sender changes nothing: send it when you retry. Without it each "
        "request is a signal of its own.",
    )
    payload: JsonValue = Field(default=None, description="The message.")
    start: ToStart | None = Field(
        default=None, description="The agent to start with it, if no living run has the topic and key."
    )


class SignalOut(BaseModel):
    """What became of the signal.

    ``run_id``: the run it is for; null while that is not known. ``starts``: it starts that run, which has its id as
    soon as Prefect has made it. ``first``: of a duplicate, what became of the one that came first, whose ids these are.
    """

    disposition: Disposition
    signal_id: str
    wait_id: str | None = None
    run_id: str | None = None
    starts: bool = False
    first: Disposition | None = None


def create_app(ledger: Ledger, place: Place, inbox: Callable[[], AbstractAsyncContextManager[Inbox | None]]) -> FastAPI:
    """The application on an open ledger. ``inbox`` opens what webhooks need; it gives None without a Prefect server."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with inbox() as opened:
            app.state.inbox = opened
            client = opened.client if opened is not None else None
            app.state.reception = reception = Reception(ledger, client)
            app.state.agents = Agents(ledger, place, reception, client)
            try:
                async with protocols.opened(app):
                    yield
            finally:
                await reception.close()

    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": Refusal} for status in (400, 401, 403, 404, 408, 409, 413, 422, 503)
    }
    app = FastAPI(
        title="Standby gateway",
        description=DESCRIPTION,
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=refusals,
        strict_content_type=False,  # JSON needs no header: no page in a browser has a key that it would send along
    )
    app.state.ledger, app.state.place = ledger, place
    answer_refusals(app)
    app.add_api_route("/docs", _documentation, include_in_schema=False)
    app.include_router(webhooks)
    app.include_router(links)
    protocols.add_routes(app)
    app.add_middleware(Limits)

    @app.get("/health", tags=["health"])
    async def health() -> dict[str, str]:
        """200 while the ledger answers."""
        await ledger.answers()
        return {"status": "ok"}

    @app.post("/signals/{topic:path}", tags=["signals"], dependencies=[Depends(shallow_body)])
    async def signal(
        topic: Annotated[str, Depends(topic_of)], body: SignalIn, caller: Annotated[Caller, Depends(Allow(Role.SENDER))]
    ) -> SignalOut:
        """Send a signal. Its disposition tells what became of it; a 2xx is sent when the ledger has it."""
        await app.state.agents.require_topic(caller, topic, body.key)
        reception: Reception = app.state.reception
        made = await reception.take(
            topic=topic, key=body.key, payload=json.dumps(body.payload), source=f"key:{caller.name}",
            delivery_id=body.delivery_id, start=body.start,
        )  # fmt: skip
        return SignalOut(
            disposition=made.disposition, signal_id=made.signal_id, wait_id=made.wait_id, run_id=made.run_id,
            starts=made.start is not None, first=made.first,
        )  # fmt: skip

    @app.get("/waits", tags=["waits"])
    async def waits(
        _: Annotated[Caller, Depends(Allow(Role.VIEWER, Role.APPROVER))],
        request: Request,
        response: Response,
        kind: Annotated[list[WaitKind] | None, Query(description="Of these kinds only; may be given again.")] = None,
        party: Annotated[Name | None, Query(description="What this party is asked only.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="How many, at most.")] = 100,
        after: Annotated[Name | None, Query(description="The id of the last wait of the page before.")] = None,
    ) -> list[dict[str, Any]]:
        """What is waited for: what people are asked (kind `approval`) first, and of that the oldest first.

        If there is more, the header `Link` has the address of the next page, with `rel="next"`; without it there is no
        more.
        """
        page = await ledger.listing.page(limit, kinds=kind or (), party=party, after=after)
        if page is None:
            raise Refused(422, "The request does not fit.", [("query.after", "there is no such wait")])
        if page.after is not None:
            # Without a path: a proxy may have this one under another.
            response.headers["Link"] = f'<{_next(request, page.after)}>; rel="next"'
        return [view.wait_view(wait) for wait in page.waits]

    @app.get("/waits/{wait_id}", tags=["waits"])
    async def wait(
        wait_id: Annotated[Name, Path()], _: Annotated[Caller, Depends(Allow(Role.VIEWER, Role.APPROVER))]
    ) -> dict[str, Any]:
        """One wait: what is asked, the evidence, and the form as JSON Schema."""
        return view.wait_view(await _found(ledger, wait_id))

    @app.post(
        "/waits/{wait_id}/answer",
        tags=["waits"],
        dependencies=[Depends(shallow_body), Depends(some_body)],
        openapi_extra={"requestBody": {"required": True}},
    )
    async def answer(
        wait_id: Annotated[Name, Path()],
        caller: Annotated[Caller, Depends(Allow(Role.APPROVER))],
        body: Annotated[JsonValue, Body()] = None,  # null is one
        opening: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    ) -> AnswerOut:
        """Answer a wait with what its form asks for. 422 names the fields that do not fit; the run then waits on.

        The same answer again from the same sender, who may not have heard of the first, changes nothing. If the wait
        was opened again since, it is refused unless it names the `opening` that it answers, as the wait shows it.
        """
        found = await _found(ledger, wait_id)
        return await answered(ledger, place, caller, found, json.dumps(body), door=Door.GATEWAY, opening=opening)

    return app


async def _documentation() -> HTMLResponse:
    # Without a slash before it: a proxy may have all this under another path.
    page = bytes(get_swagger_ui_html(openapi_url="openapi.json", title="Standby gateway").body).decode()
    # What is in the element stands there until Swagger UI takes its place.
    return HTMLResponse(page.replace('<div id="swagger-ui">', f'<div id="swagger-ui"><p>{NO_INTERNET}</p>'))


def _next(request: Request, after: str) -> str:
    same = [(name, value) for name, value in request.query_params.multi_items() if name != "after"]
    return f"?{urlencode([*same, ('after', after)])}"


async def _found(ledger: Ledger, wait_id: str) -> Any:
    found = await ledger.waits.get(wait_id)
    if found is None:
        raise UnknownWait(wait_id, "the gateway takes whole ids, as `GET /waits` has them")
    return found
