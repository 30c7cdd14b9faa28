"""Which answers of Prefect are believed at once, and which are looked at again, without a server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import SetStateStatus, StateAcceptDetails
from prefect.exceptions import Abort, ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_CSRF_SUPPORT_ENABLED, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Running

from standby import believing
from standby.believing import NotPrefects, careful
from standby.parking import client as parking_client

API = "http://prefect.test/api"
RUN = UUID("00000000-0000-4000-8000-000000000001")
DEPTH = len(believing.LOOKS)
PAGE = {"html": "<p>maintenance</p>"}
TEXT = {"text": "404 page not found"}
JSON = {"content-type": "application/json"}
CUT = {"headers": JSON, "content": b'{"id": "'}
EMPTY = {"headers": JSON, "content": b""}
NULL = {"headers": JSON, "content": b"null"}
GARBLED = {"headers": JSON | {"content-encoding": "gzip"}, "stream": httpx.ByteStream(b"no gzip")}
ITS = {"json": {"detail": "so it is"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(believing, "LOOKS", (0.0,) * DEPTH)


@pytest.fixture(autouse=True, scope="module")
def who_asks_asks_again() -> Iterator[None]:
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}):
        yield


class Server:
    """Answers so, one after the other, the last one for ever."""

    def __init__(self, *answers: tuple[int, dict[str, Any]]) -> None:
        self.answers, self.asked = answers, 0
        self.client = careful(
            PrefectClient(API, httpx_settings={"transport": httpx.MockTransport(self._answer), "verify": False})
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        status, content = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        answer = httpx.Response(status, **content)
        answer.headers["retry-after"] = "0"  # else Prefect's client waits, also where it is not to ask again
        return answer


GOOD: tuple[int, dict[str, Any]] = (200, {"json": []})


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 422, 451])
@pytest.mark.parametrize("content", [ITS, PAGE, TEXT, {}], ids=["its", "page", "text", "none"])
async def test_a_refusal_is_looked_at_again(status: int, content: dict[str, Any]) -> None:
    server = Server(*[(status, content)] * DEPTH, GOOD)
    assert await server.client.read_flow_run_states(RUN) == []
    assert server.asked == DEPTH + 1


async def test_what_stands_is_believed() -> None:
    server = Server((404, ITS))
    with pytest.raises(ObjectNotFound):
        await server.client.read_flow_run(RUN)
    assert server.asked == DEPTH + 1


@pytest.mark.parametrize("status", [200, 201, 400, 403, 404, 422])
@pytest.mark.parametrize("retries", [0, 2])
async def test_a_page_is_never_believed(status: int, retries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Prefect's client does not look at what the answer holds. It is asked again as often as a busy server
    is, for by this Prefect is away."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(believing, "sleep", sleep)
    server = Server((status, PAGE))
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: retries}), pytest.raises(NotPrefects, match=f"{status}"):
        await server.client.create_flow_run_input(RUN, "key", "{}")
    assert slept == [*believing.LOOKS, *[2.0, 4.0][:retries]]


@pytest.mark.parametrize(
    ("status", "content"), [(408, ITS), (408, PAGE), (429, ITS), (500, ITS), (500, PAGE), (503, CUT)]
)
async def test_what_a_busy_server_says_is_left_to_who_asks(status: int, content: dict[str, Any]) -> None:
    server = Server((status, content))
    with pytest.raises(PrefectHTTPStatusError):
        await server.client.read_flow_run(RUN)
    assert server.asked == 1


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("content", [CUT, EMPTY, GARBLED], ids=["cut", "empty", "garbled"])
async def test_what_cannot_be_read_is_never_believed(status: int, content: dict[str, Any]) -> None:
    server = Server(*[(status, content)] * DEPTH, GOOD)
    assert await server.client.read_flow_run_states(RUN) == []
    server = Server((status, content))
    with pytest.raises(NotPrefects, match="no answer of Prefect's"):
        await server.client.read_flow_run_states(RUN)
    assert server.asked == DEPTH + 1


async def test_who_sends_in_circles_is_not_prefect() -> None:
    server = Server((307, {"headers": {"location": "/api/there"}}))
    with pytest.raises(NotPrefects, match="TooManyRedirects"):
        await server.client.read_flow_run(RUN)


@pytest.mark.parametrize("content", [{}, [], None, {"message": "from a gateway"}], ids=repr)
async def test_json_that_is_not_what_a_call_returns_is_never_believed(content: Any) -> None:
    server = Server((200, {"headers": JSON, "content": json.dumps(content).encode()}))
    client = server.client
    calls: list[Awaitable[Any]] = [
        client.read_flow_run(RUN),
        client.set_flow_run_state(RUN, Running()),
        client.create_flow_run_from_deployment(RUN),
        client.read_deployment_by_name("an agent/a deployment"),
    ]
    if content is not None:
        calls.append(client.create_flow_run_input(RUN, "key", "{}"))
    if content != []:
        calls += [
            client.read_flow_run_states(RUN),
            client.read_flow_runs(),
            client.filter_flow_run_input(RUN, "key", 1, set()),
        ]
    for call in calls:
        server.asked = 0
        with pytest.raises(NotPrefects):
            await call
        assert server.asked == DEPTH + 1


async def test_prefects_own_answers_are_taken_for_them() -> None:
    run = FlowRun(id=RUN, flow_id=RUN, state=Running())
    server = Server((200, {"json": run.model_dump(mode="json")}))
    assert (await server.client.read_flow_run(RUN)).id == RUN
    assert (await server.client.create_flow_run_from_deployment(RUN)).id == RUN
    assert server.asked == 2
    taken: OrchestrationResult[Any] = OrchestrationResult(
        state=run.state, status=SetStateStatus.ACCEPT, details=StateAcceptDetails()
    )
    server = Server((201, {"json": taken.model_dump(mode="json")}))
    assert (await server.client.set_flow_run_state(RUN, Running())).status is SetStateStatus.ACCEPT
    server = Server((201, NULL))
    await server.client.create_flow_run_input(RUN, "key", "{}")
    assert server.asked == 1


async def test_a_server_without_csrf_tokens_says_so_at_once() -> None:
    server = Server((422, {"json": {"detail": "CSRF protection is disabled."}}), (201, NULL))
    vars(server.client._client)["enable_csrf_support"] = True
    await server.client.create_flow_run_input(RUN, "key", "{}")
    assert server.asked == 2


async def test_what_prefect_says_as_a_matter_of_course_is_believed_at_once() -> None:
    for status, call in ((409, "create_flow_run_input"), (404, "delete_flow_run_input"), (404, "read_flow_run_input")):
        server = Server((status, ITS))
        with pytest.raises(PrefectHTTPStatusError):
            await getattr(server.client, call)(RUN, "key", *["{}"] * call.startswith("create"))
        assert server.asked == 1, call


async def test_but_not_when_a_proxy_says_it() -> None:
    server = Server((409, PAGE), (201, ITS))
    await server.client.create_flow_run_input(RUN, "key", "{}")
    assert server.asked == 2


async def test_what_is_no_json_to_prefect_is_believed() -> None:
    server = Server((204, {}))
    await server.client.delete_flow_run_input(RUN, "key")
    assert server.asked == 1
    server = Server((200, {"text": "value"}))
    assert await server.client.read_flow_run_input(RUN, "key") == "value"
    assert server.asked == 1


async def test_a_client_is_made_careful_once_and_is_the_same() -> None:
    async with PrefectClient(API) as plain:
        made = careful(plain)
        assert careful(made) is made
        vars(made._client)["csrf_token"] = "seen"
        assert vars(plain._client)["csrf_token"] == "seen"
        assert type(plain._client) is not type(made._client)


@pytest.mark.parametrize(
    ("status", "content", "error"),
    [
        (404, PAGE, Abort),
        (200, PAGE, Abort),
        (200, CUT, Abort),
        (200, GARBLED, Abort),
        (408, PAGE, Abort),
        (500, ITS, Abort),
        (404, ITS, ObjectNotFound),
        (400, ITS, PrefectHTTPStatusError),
    ],
)
async def test_a_run_that_is_about_to_wait_fails_by_no_page(
    status: int, content: dict[str, Any], error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops, and is taken up again when Prefect is back. What Prefect itself says fails it."""
    server = Server((status, content))
    monkeypatch.setattr(parking_client, "get_client", lambda: server.client)
    with pytest.raises(error):
        async with parking_client.prefect_for(str(RUN)) as client:
            await client.read_flow_run(RUN)
