"""Which answer of Prefect is believed at once, and which is looked at again first.

Between Prefect and who asks it may stand a proxy, whose answer says nothing of what was asked. So a client of Prefect
is made ``careful``, and all it is asked goes this way:

- An answer is Prefect's if it is JSON that can be read, and holds what the call returns (``_RETURNS``), or if it has
  no content and says so (204). What a server that is too busy or away says (408, 429, 5xx) is left to who asks, as
  ever.
- A refusal that is Prefect's by this (any other 4xx) is asked again after each pause of ``LOOKS``, and believed if it
  is the same then; at once only where Prefect gives it as a matter of course (``_OF_COURSE``).
- What is not Prefect's, such as a page, or JSON that was cut off, is never believed: it is asked again, longer than
  that as a busy server is, and then Prefect is away (``NotPrefects``).
"""

from __future__ import annotations

import copy
import logging
import re
from asyncio import sleep
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any, NewType, cast

import httpx
from prefect.client.base import PrefectHttpxAsyncClient
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.context import AsyncClientContext, ContextModel
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES
from pydantic import BaseModel

log = logging.getLogger("standby.believing")

LOOKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds before each look more."""

BUSY = (408, 429)
"""Statuses of a server that is too busy or away, beside 5xx."""

UNREADABLE = (httpx.DecodingError, httpx.TooManyRedirects)
"""What is raised for an answer that cannot be read at all, and is no ``httpx.TransportError``."""

_OF_COURSE = re.compile(r"POST \S+/input 409|(GET|DELETE) \S+/input/\S+ 404|GET \S+/csrf-token 422")
"""An input of a run is there already, or is not, or not any more; and a server asks for no such token."""

_TEXT = re.compile(r"GET \S+/input/\S+ 200")
"""What an input holds is no JSON to Prefect."""

_RETURNS: dict[str, type[BaseModel] | type[list[Any]] | None] = {
    r"GET .+/flow_runs/[^/]+ 2\d\d": FlowRun,
    r"POST .+/deployments/[^/]+/create_flow_run 2\d\d": FlowRun,
    r"POST .+/flow_runs/[^/]+/set_state 2\d\d": OrchestrationResult,
    r"GET .+/deployments/name/.+ 2\d\d": DeploymentResponse,
    r"(GET .+/flow_run_states/|POST .+/(flow_runs|deployments|input)/filter) 2\d\d": list,
    r"POST .+/flow_runs/[^/]+/input 200": None,  # Prefect's own is 201
}
"""What the calls return by which runs start, park, wait and wake: other JSON is somebody else's."""

Careful = NewType("Careful", PrefectClient)
"""A client by which every answer is looked at so (``careful``)."""


class NotPrefects(httpx.TransportError):
    """Where Prefect should be somebody else answers, with what is none of its answers; so Prefect is away."""

    def __init__(self, request: httpx.Request, answered: str) -> None:
        super().__init__(
            f"{request.method} {request.url} is answered with {answered}, which is no answer of Prefect's. See what "
            "stands before it, such as a proxy, or whether PREFECT_API_URL is right.",
            request=request,
        )


def careful(client: PrefectClient) -> Careful:
    """The same client, with the same connections; it is not to be closed. One that is careful stays as it is."""
    asks = getattr(client, "_client", None)
    if isinstance(asks, _Looks) or not isinstance(asks, PrefectHttpxAsyncClient):  # a test's stand-in asks nobody
        return Careful(client)
    looks = _Looks.__new__(_Looks)
    looks.__dict__ = asks.__dict__  # what one of them learns, such as a token, both know
    made = copy.copy(client)
    made._client = looks
    return Careful(made)


class CarefulContext(AsyncClientContext):
    """Makes it the client of Prefect's own functions, such as ``pause_flow_run``."""

    def __init__(self, client: Careful) -> None:
        ContextModel.__init__(self, client=client)


class _Looks(PrefectHttpxAsyncClient):
    async def send(self, request: httpx.Request, *args: Any, **kwargs: Any) -> httpx.Response:
        looks, longer = iter(LOOKS), _as_when_busy()
        while True:
            answer: httpx.Response | None = None
            refused: Exception | None = None
            try:
                answer = await super().send(request, *args, **kwargs)
            except PrefectHTTPStatusError as error:
                answer, refused = error.response, error
            except UNREADABLE as error:
                refused = error
            if answer is None or not _is_prefects(request, answer):
                pause = next(chain(looks, longer), None)
                if pause is None:
                    raise NotPrefects(request, _in_words(answer, refused)) from refused
            else:
                pause = next(looks, None) if _is_doubted(request, answer) else None
            if pause is None:
                if refused is not None:
                    raise refused
                assert answer is not None
                return answer
            said = _in_words(answer, refused)
            log.info("%s %s was answered with %s, and is asked again.", request.method, request.url.path, said)
            await sleep(pause)


def _as_when_busy() -> Iterator[float]:
    """The pauses of Prefect's client when the server is too busy: a minute in all, and none where that is told not to
    ask again, for who asks does it."""
    return (2.0**number for number in range(1, cast(int, PREFECT_CLIENT_MAX_RETRIES.value()) + 1))


def _in_words(answer: httpx.Response | None, error: Exception | None) -> str:
    if answer is None:
        return f"what cannot be read ({type(error).__name__}: {error})"
    return f"{answer.status_code} ({answer.headers.get('content-type') or 'no content'})"


def _call(request: httpx.Request, answer: httpx.Response) -> str:
    return f"{request.method} {request.url.path} {answer.status_code}"


def _is_left_to_who_asks(status: int) -> bool:
    return status >= 500 or status in BUSY


def _is_doubted(request: httpx.Request, answer: httpx.Response) -> bool:
    """Whether an answer that is Prefect's by what it is refuses what Prefect would not refuse as a matter of course."""
    status = answer.status_code
    refuses = status >= 400 and not _is_left_to_who_asks(status)
    return refuses and _OF_COURSE.fullmatch(_call(request, answer)) is None


def _is_prefects(request: httpx.Request, answer: httpx.Response) -> bool:
    """Whether an answer is Prefect's by what it is, or says nothing but that the server is too busy or away."""
    if _is_left_to_who_asks(answer.status_code) or answer.status_code == 204:
        return True
    kind, call = str(answer.headers.get("content-type", "")).partition(";")[0].strip().lower(), _call(request, answer)
    if kind != "application/json":
        return kind == "text/plain" and _TEXT.fullmatch(call) is not None
    if answer.status_code in range(300, 400):
        return False
    try:
        content = answer.json()
    except ValueError:
        return False
    return _is_returned(call, content)


def _is_returned(call: str, content: Any) -> bool:
    for calls, kind in _RETURNS.items():
        if re.fullmatch(calls, call):
            if kind is None or kind is list:
                return isinstance(content, kind or type(None))
            return isinstance(content, dict) and _needed(kind) <= content.keys()
    return True


@cache
def _needed(kind: type[BaseModel]) -> frozenset[str]:
    """What Prefect's client cannot do without."""
    return frozenset(name for name, field in kind.model_fields.items() if field.is_required())
