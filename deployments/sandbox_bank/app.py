"""The bank's HTTP routes. Errors are 4xx and say what to change, except where the sandbox is told to fail."""

import asyncio
import hmac
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, NoReturn
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.sandbox_bank.settlement import SettlementDesk
from deployments.sandbox_bank.store import OrderConflictError, Store
from deployments.sandbox_bank.wire import (
    Controls,
    Counts,
    LoggedRequest,
    PaymentOrder,
    PaymentView,
    Problem,
    ReportView,
    Webhook,
)

_KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")


class Bank:
    """What the routes share."""

    def __init__(self, store: Store, api_key: str) -> None:
        self.store = store
        self.api_key = api_key
        self.desk = SettlementDesk(store)


def _bank(request: Request) -> Bank:
    bank: Bank = request.app.state.bank
    return bank


TheBank = Annotated[Bank, Depends(_bank)]
_bearer = HTTPBearer(auto_error=False)


async def _authorised(bank: TheBank, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
    # Bytes: compare_digest refuses text beyond ASCII.
    if given is None or not hmac.compare_digest(given.credentials.encode(), bank.api_key.encode()):
        raise HTTPException(
            401, "Send the bank's key as 'Authorization: Bearer ...'.", headers={"WWW-Authenticate": "Bearer"}
        )


def _no_payment(payment_id: str) -> NoReturn:
    raise HTTPException(404, f"There is no payment {payment_id!r}.")


payments = APIRouter(prefix="/payments", dependencies=[Depends(_authorised)])
account = APIRouter(dependencies=[Depends(_authorised)])
sandbox = APIRouter(prefix="/sandbox", dependencies=[Depends(_authorised)])
health = APIRouter()


async def _idempotency_key(idempotency_key: Annotated[str | None, Header()] = None) -> str:
    if idempotency_key is None or not _KEY.fullmatch(idempotency_key):
        raise HTTPException(400, "The Idempotency-Key header is required: 1 to 255 printable ASCII characters.")
    return idempotency_key


@payments.post("", status_code=201)
async def accept(
    key: Annotated[str, Depends(_idempotency_key)], order: PaymentOrder, bank: TheBank, response: Response
) -> PaymentView:
    accepted = await asyncio.to_thread(bank.store.accept, key, order, datetime.now(UTC))
    bank.desk.poke()
    if accepted.forgotten:
        raise HTTPException(500, "The sandbox bank forgot to say what became of this (PUT /sandbox, forgetful).")
    response.status_code = 201 if accepted.created else 200
    return accepted.payment


@payments.get("")
async def find(idempotency_key: Annotated[str, Query()], bank: TheBank) -> list[PaymentView]:
    return await asyncio.to_thread(bank.store.payments_with_key, idempotency_key)


@payments.get("/{payment_id}")
async def show(payment_id: str, bank: TheBank) -> PaymentView:
    return await asyncio.to_thread(bank.store.payment, payment_id) or _no_payment(payment_id)


@payments.post("/{payment_id}/settle")
async def settle(payment_id: str, bank: TheBank) -> PaymentView:
    settled = await asyncio.to_thread(bank.store.settle, payment_id, datetime.now(UTC))
    bank.desk.poke()
    return settled or _no_payment(payment_id)


@account.put("/webhook", status_code=204)
async def report_to(webhook: Webhook, bank: TheBank) -> None:
    await asyncio.to_thread(bank.store.report_to, webhook)


@sandbox.get("")
async def controls(bank: TheBank) -> Controls:
    return await asyncio.to_thread(bank.store.controls)


@sandbox.put("")
async def change_controls(changes: Controls, bank: TheBank) -> Controls:
    changed = await asyncio.to_thread(bank.store.change, changes.model_dump(exclude_unset=True))
    bank.desk.poke()
    return changed


@sandbox.get("/log")
async def log(bank: TheBank) -> list[LoggedRequest]:
    return await asyncio.to_thread(bank.store.log)


@sandbox.get("/counts")
async def counts(bank: TheBank) -> Counts:
    return await asyncio.to_thread(bank.store.counts)


@sandbox.get("/reports")
async def reports(bank: TheBank) -> list[ReportView]:
    return await asyncio.to_thread(bank.store.reports)


@health.get("/health")
async def healthy() -> dict[str, str]:
    return {"status": "ok"}


class Front:
    """Stands before the /payments routes: logs each request, says that the bank is down, makes it slow.

    Plain ASGI, because it logs and delays the answer's first byte, also where no route got to run.
    """

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app = app
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not re.match(r"/payments(/|$)", scope["path"]):
            return await self._app(scope, receive, send)
        key = Headers(scope=scope).get("idempotency-key")
        if key is None:
            asked = parse_qs(scope["query_string"].decode("latin-1")).get("idempotency_key", [None])
            key = asked[0]
        arrived = (scope["method"], scope["path"], key, datetime.now(UTC))
        request_id, controls = await asyncio.to_thread(self._store.arrive, *arrived)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                await asyncio.sleep(controls.slow_seconds)
                await asyncio.to_thread(self._store.answered, request_id, message["status"])
            await send(message)

        if controls.down:
            return await _problem(503, "The sandbox bank is down (PUT /sandbox, down).")(scope, receive, answer)
        return await self._app(scope, receive, answer)


def _problem(status: int, detail: str, field: str | None = None, headers: Any = None) -> JSONResponse:
    return JSONResponse(Problem(detail=detail, field=field).model_dump(), status, headers=headers)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    return _problem(error.status_code, error.detail or HTTPStatus(error.status_code).phrase, headers=error.headers)


async def _invalid(_request: Request, error: Exception) -> Response:
    """Name the first field that is wrong. The input isn't echoed: it may hold what JSON cannot carry back."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    message = first["msg"].removeprefix("Value error, ")
    return _problem(422, f"{field}: {message}", field)


async def _conflict(_request: Request, error: Exception) -> Response:
    assert isinstance(error, OrderConflictError)
    return _problem(409, str(error), error.field)


def create_app(store: Store, api_key: str) -> FastAPI:
    """The app over an open store; the app's end stops settlement, and the store is the caller's to close."""
    bank = Bank(store, api_key)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with bank.desk.open():
            yield

    app = FastAPI(
        title="Sandbox bank",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        exception_handlers={
            AnyHTTPException: _refused,
            RequestValidationError: _invalid,
            OrderConflictError: _conflict,
        },
    )
    app.state.bank = bank
    for router in (payments, account, sandbox, health):
        app.include_router(router)
    app.add_middleware(Front, store=store)
    return app
