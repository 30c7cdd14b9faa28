"""Which answer of Prefect is believed at once, and which is looked at again first.

Between Prefect and who asks it may stand a proxy, whose answer says nothing of what was asked. So a client of Prefect
is made ``careful``, and all it is asked goes this way:

- An answer is Prefect's if it is JSON, or has no content and says so (204). What a server that is too busy or away
  says (408, 429, 5xx) is left to who asks, as ever.
- A refusal that is Prefect's by this (``DOUBTED``) is asked again after each pause of ``LOOKS``, and believed if it is
  the same then; at once only where Prefect gives it as a matter of course (``_OF_COURSE``).
- What is not Prefect's, such as a page, is never believed: it is asked again, longer than that as a busy server is, and
  then Prefect is away (``NotPrefects``).
"""

from __future__ import annotations

import copy
import logging
import re
from asyncio import sleep
from collections.abc import Iterator
from itertools import chain
from typing import Any, NewType, cast

import httpx
from prefect.client.base import PrefectHttpxAsyncClient
from prefect.client.orchestration import PrefectClient
from prefect.context import AsyncClientContext, ContextModel
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

log = logging.getLogger("standby.believing")

LOOKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds before each look more."""

DOUBTED = (401, 403, 404, 409)
"""Statuses by which Prefect refuses what cannot be, and a proxy what it does not let through."""

_OF_COURSE = re.compile(r"POST \S+/input 409|(GET|DELETE) \S+/input/\S+ 404")
"""An input of a run is there already, or is not, or not any more."""

_TEXT = re.compile(r"GET \S+/input/\S+ 200")
"""What an input holds is no JSON to Prefect."""

Careful = NewType("Careful", PrefectClient)
"""A client by which every answer is looked at so (``careful``)."""


class NotPrefects(httpx.TransportError):
    """Where Prefect should be somebody else answers, with what is none of its answers; so Prefect is away."""

    def __init__(self, response: httpx.Response) -> None:
        asked, kind = response.request, response.headers.get("content-type") or "no content"
        super().__init__(
            f"{asked.method} {asked.url} is answered with {response.status_code} ({kind}), which is no answer of "
            "Prefect's. See what stands before it, such as a proxy, or whether PREFECT_API_URL is right.",
            request=asked,
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
            try:
                answer, refused = await super().send(request, *args, **kwargs), None
            except PrefectHTTPStatusError as error:
                answer, refused = error.response, error
            status = answer.status_code
            said = f"{request.method} {request.url.path} {status}"
            if status >= 500 or status in (408, 429):
                pause = None
            elif not _is_prefects(answer, said):
                if (pause := next(chain(looks, longer), None)) is None:
                    raise NotPrefects(answer) from refused
            else:
                pause = next(looks, None) if status in DOUBTED and not _OF_COURSE.fullmatch(said) else None
            if pause is None:
                if refused is not None:
                    raise refused
                return answer
            log.info("%s %s was answered with %d, and is asked again.", request.method, request.url.path, status)
            await sleep(pause)


def _as_when_busy() -> Iterator[float]:
    """The pauses of Prefect's client when the server is too busy: a minute in all, and none where that is told not to
    ask again, for who asks does it."""
    return (2.0**number for number in range(1, cast(int, PREFECT_CLIENT_MAX_RETRIES.value()) + 1))


def _is_prefects(answer: httpx.Response, said: str) -> bool:
    kind = str(answer.headers.get("content-type", "")).partition(";")[0].strip().lower()
    return (
        answer.status_code == 204
        or kind == "application/json"
        or (kind == "text/plain" and _TEXT.fullmatch(said) is not None)
    )
