"""What the gateway refuses, in the protocol's errors; and calls of its handler with the caller in them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, TypeVar

from a2a.server.context import ServerCallContext
from a2a.utils.errors import A2AError, InternalError, InvalidParamsError, TaskNotFoundError, UnsupportedOperationError
from a2a.utils.proto_utils import validate_proto_required_fields
from starlette.exceptions import HTTPException

from standby.callers import Caller
from standby.errors import AnswerRefused, LedgerUnavailable, NotAllowed
from standby.gateway.a2a.wire import NotJson
from standby.gateway.refusals import UNREACHED, Refused

log = logging.getLogger("standby.gateway")

R = TypeVar("R")


def unfit(said: str, problems: Sequence[tuple[str, str]]) -> InvalidParamsError:
    listed = "; ".join(f"{field}: {reason}" for field, reason in problems)
    errors = [{"field": field, "message": reason} for field, reason in problems]
    return InvalidParamsError(" ".join(filter(None, (said, listed))), {"errors": errors} if errors else None)


def translated(error: Exception) -> Exception:
    """The protocol's error for what was refused: its clients show no body of another status of HTTP's. Only who is not
    known, or comes at a bad time, is told by that."""
    if isinstance(error, A2AError | HTTPException):
        return error
    if isinstance(error, LedgerUnavailable):
        return HTTPException(503, UNREACHED, {"Retry-After": "2"})
    if isinstance(error, NotAllowed):
        return UnsupportedOperationError(str(error))
    if isinstance(error, AnswerRefused):
        return unfit("The answer was refused, the task is still waiting.", error.problems)
    if isinstance(error, NotJson):
        return unfit("The message does not fit.", [("parts", str(error))])
    if isinstance(error, Refused):
        if error.status in (401, 503):
            return HTTPException(error.status, error.error)
        if error.status == 404:
            return TaskNotFoundError(error.error)
        if error.status in (403, 409):
            return UnsupportedOperationError(error.error)
        return unfit(error.error, error.problems)
    log.error("A request by A2A failed.", exc_info=error)
    return InternalError("This is a fault of the gateway's, whose log has more.")


def called(
    method: Callable[[Any, Any, Caller], Awaitable[R]],
) -> Callable[[Any, Any, ServerCallContext], Coroutine[Any, Any, R]]:
    """A method of the protocol's handler, called with who asks."""

    @wraps(method)
    async def call(self: Any, params: Any, context: ServerCallContext) -> R:
        try:
            validate_proto_required_fields(params)
            return await method(self, params, context.state["caller"])
        except Exception as error:
            raise translated(error) from error

    return call


def streamed(
    method: Callable[[Any, Any, Caller], AsyncGenerator[R]],
) -> Callable[[Any, Any, ServerCallContext], AsyncGenerator[R]]:
    """The same for one that answers with a stream."""

    @wraps(method)
    async def call(self: Any, params: Any, context: ServerCallContext) -> AsyncGenerator[R]:
        events = method(self, params, context.state["caller"])
        try:
            validate_proto_required_fields(params)
            async for event in events:
                yield event
        except Exception as error:
            raise translated(error) from error
        finally:
            await events.aclose()

    return call
