"""What the gateway answers when it does not do what it was asked: one shape for all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from standby.errors import AnswerRefused, LedgerUnavailable, NotAllowed, UnknownWait

UNKNOWN = (
    "it is not known whether this was taken. Try again: the same answer counts once, and so does the same delivery id."
)
UNREACHED = f"The ledger cannot be reached, and {UNKNOWN}"
"""What cannot be known: the ledger may have taken it, and only its word on that was lost."""

JSON = "application/json"
EMPTY = "it is empty"


class Problem(BaseModel):
    """One thing that is wrong: where, and why."""

    field: str
    reason: str


class Refusal(BaseModel):
    """It was not done, unless that is not known. ``error`` says why in a sentence, ``problems`` names the fields."""

    error: str
    problems: list[Problem] = []


class Refused(Exception):
    """Ends a request with this status and a ``Refusal``. ``more`` is added to its body."""

    def __init__(self, status: int, error: str, problems: Sequence[tuple[str, str]] = (), **more: Any) -> None:
        super().__init__(error)
        self.status, self.error, self.problems, self.more = status, error, problems, more


def answer_refusals(app: FastAPI) -> None:
    """Have everything that is refused answered in the shape of ``Refusal``."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return _response(error.status, error.error, error.problems, error.more)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = [_problem(one) for one in error.errors()]
        if [at for at, _ in problems] == ["body"] and (whole := await _about_body(request)) is not None:
            problems = [whole]
        return _response(422, "The request does not fit.", problems)

    @app.exception_handler(HTTPException)
    async def by_starlette(_: Request, error: HTTPException) -> JSONResponse:
        response = _response(error.status_code, str(error.detail), _unreadable(error.__cause__))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(AnswerRefused)
    async def unfit(_: Request, error: AnswerRefused) -> JSONResponse:
        return _response(422, str(error), error.problems)

    @app.exception_handler(NotAllowed)
    async def not_allowed(_: Request, error: NotAllowed) -> JSONResponse:
        return _response(403, str(error))

    @app.exception_handler(UnknownWait)
    async def unknown(_: Request, error: UnknownWait) -> JSONResponse:
        return _response(404, str(error))

    @app.exception_handler(LedgerUnavailable)
    async def away(_: Request, error: LedgerUnavailable) -> JSONResponse:
        response = _response(503, UNREACHED)
        response.headers["Retry-After"] = "2"
        return response


def _problem(one: dict[str, Any]) -> tuple[str, str]:
    if one["type"] == "json_invalid":
        return "body", f"it is not JSON: {one['ctx']['error']} at character {one['loc'][-1]}"
    return ".".join(map(str, one["loc"])), str(one["msg"]).removeprefix("Value error, ")


def _unreadable(cause: BaseException | None) -> list[tuple[str, str]]:
    """Why a body could not be parsed, which FastAPI does not tell where it is no mistake of syntax."""
    if isinstance(cause, RecursionError):
        return [("body", "it is nested too deeply")]
    if isinstance(cause, ValueError):
        # After a semicolon Python says how its limit on digits is raised.
        return [("body", f"it cannot be read: {str(cause).partition(';')[0]}")]
    return []


async def _about_body(request: Request) -> tuple[str, str] | None:
    """What is wrong with a body as a whole, where the library's words would lead astray."""
    body = (await request.body()).strip()
    if not body:
        return "body", EMPTY
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind != JSON and not kind.endswith("+json"):
        return "header.content-type", f"it is {kind}: send JSON as {JSON}, or without this header"
    return ("body", "it is null, and takes an object") if body == b"null" else None


def _response(
    status: int, error: str, problems: Sequence[tuple[str, str]] = (), more: dict[str, Any] | None = None
) -> JSONResponse:
    listed = [{"field": field, "reason": reason} for field, reason in problems]
    # ASCII: half a surrogate pair in what was sent must not break the answer that names it.
    return _Ascii({"error": error, "problems": listed} | (more or {}), status)


class _Ascii(JSONResponse):
    def render(self, content: Any) -> bytes:
        import json

        return json.dumps(content, ensure_ascii=True).encode()
