"""A request is taken whole or not at all."""

import asyncio
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import BaseModel

from standby import Approval
from standby.gateway import headers
from standby.gateway.limits import Limits
from standby.links import address_of, link_for
from standby.states import Role, WaitState
from tests.gateway.conftest import Gate, served
from tests.ledger.acts import parked
from tests.support.waiting import wait_until


class Payment(BaseModel):
    approved: bool
    amount: int


async def cut_off(server: uvicorn.Server, head: str, body: bytes) -> None:
    """Send this, and go away. Returns when the gateway has dealt with it."""
    _, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
    writer.write(head.encode() + body)
    await wait_until(lambda: bool(server.server_state.tasks), 10)
    writer.close()
    await writer.wait_closed()
    await wait_until(lambda: not server.server_state.tasks and not server.server_state.connections, 10)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_an_answer_that_is_cut_off_is_not_taken(door: Gate, chunked: bool) -> None:
    """What came of it would be an answer, too: another one."""
    [by_link] = (await parked(door.ledger, [Approval("Pay?", form=Payment, party="finance").row("approval")])).waits
    [by_key] = (await parked(door.ledger, [Approval("How much?", form=int).row("approval")], run="other")).waits
    path = await address_of(door.ledger, await link_for(door.ledger, by_link, "ada"), "")
    key = (await door.as_(Role.APPROVER))["Authorization"]
    async with served(door) as server:
        for to, headers, body in (
            (path, "Content-Type: application/x-www-form-urlencoded", b"approved=true&amount=1250000"),
            (f"/waits/{by_key.id}/answer", f"Content-Type: application/json\r\nAuthorization: {key}", b"1250000"),
        ):
            said = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
            part = body[:-4]
            head = f"POST {to} HTTP/1.1\r\nHost: gateway\r\n{headers}\r\n{said}\r\n\r\n"
            await cut_off(server, head, b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
    for wait in (by_link, by_key):
        assert (await door.ledger.waits.get(wait.id)).state == WaitState.OPEN
        assert await door.ledger.waits.decisions_of(wait.run_id) == []
    assert (await door.client.post(path, data={"approved": "true", "amount": "1250000"})).status_code == 200


async def test_the_application_is_not_called_for_part_of_a_body() -> None:
    called = []

    async def app(*_: Any) -> None:
        called.append(True)

    async def send(message: Any) -> None:
        raise AssertionError(f"there is nobody to send {message} to")

    for before in ([], [b"approved=", b"true"]):
        coming: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in before]
        coming.append({"type": "http.disconnect"})

        async def receive(coming: list[dict[str, Any]] = coming) -> Any:
            return coming.pop(0)

        await Limits(app)({"type": "http", "headers": []}, receive, send)
        assert (coming, called) == ([], [])


async def test_what_is_not_done_in_time_is_not_said_to_be_undone(door: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger takes it, and its word on that comes too late. People with a link are told by a page."""
    sender = await door.as_(Role.SENDER)
    [wait] = (await parked(door.ledger, [Approval("Pay?").row("approval")])).waits
    path = await address_of(door.ledger, await link_for(door.ledger, wait, "ada"), "")
    signal: dict[str, Any] = {"url": "/signals/paid", "json": {"delivery_id": "d"}, "headers": sender}

    def too_late(does: Any) -> Any:
        async def doing(*args: Any, **more: Any) -> Any:
            await asyncio.shield(does(*args, **more))
            await asyncio.Event().wait()

        return doing

    hurried = httpx.AsyncClient(transport=httpx.ASGITransport(Limits(door.app, seconds=2)), base_url="http://gateway")
    with monkeypatch.context() as patched:
        patched.setattr(door.ledger.signals, "deliver", too_late(door.ledger.signals.deliver))
        patched.setattr(door.ledger.waits, "settle", too_late(door.ledger.waits.settle))
        async with hurried:
            told, page = await asyncio.gather(hurried.post(**signal), hurried.post(path, data={"approved": "true"}))
    assert (told.status_code, "it is not known whether this was taken" in told.json()["error"]) == (408, True)
    assert (page.status_code, page.headers["content-type"]) == (408, "text/html; charset=utf-8")
    assert "it is not known whether this was taken" in page.text
    again = await door.client.post(**signal)
    assert (again.status_code, again.json()["disposition"]) == (200, "duplicate")
    assert (await door.client.post(path, data={"approved": "true"})).status_code == 410
    assert (await door.ledger.waits.get(wait.id)).state == WaitState.SETTLED


async def test_of_what_has_not_come_in_time_nothing_was_taken(door: Gate) -> None:
    async def stops() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    transport = httpx.ASGITransport(Limits(door.app, seconds=0.05))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        for path in ("/signals/paid", "/answer/token"):
            told = await client.post(path, content=stops())
            assert (told.status_code, "nothing of it was taken" in told.text) == (408, True)
            assert told.headers["content-type"].startswith("text/html" if "answer" in path else "application/json")


async def test_headers_that_do_not_come_in_time_hold_no_connection(door: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a connection without a word, nor the second request of one; bytes that trickle in change nothing."""
    monkeypatch.setattr(headers, "HEADERS_SECONDS", 0.5)
    whole = b"GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n"
    async with served(door) as server, asyncio.timeout(20):
        address = server.servers[0].sockets[0].getsockname()
        for said in (b"", b"POST /signals/x HTTP/1.1\r\nHost: a\r\nX-A: ", whole + b"GET /hea"):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(said)
            if said.startswith(whole):
                assert (await reader.readuntil(b'"ok"}')).startswith(b"HTTP/1.1 200")
                writer.write(b"l")
            assert await reader.read() == b"", "it is closed"
            writer.close()
        reader, writer = await asyncio.open_connection(*address)
        trickling = asyncio.create_task(trickle(writer))
        assert await reader.read() == b""
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)
        writer.close()
        await wait_until(lambda: not server.server_state.connections, 10)


async def trickle(writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /health HTTP/1.1\r\n")
    while True:
        writer.write(b"X-A: b\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def test_a_request_whose_headers_are_here_has_its_own_time(door: Gate) -> None:
    """Its body and its work are not measured by the time for headers, nor is the pause before the next one."""
    head = b"POST /signals/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
    async with served(door) as server, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())

        def measured() -> bool | None:
            """Whether the time for headers runs; None before there is a connection."""
            return next((one._due is not None for one in server.server_state.connections), None)  # type: ignore[union-attr]

        await wait_until(measured)
        for _ in range(2):
            writer.write(head)
            await wait_until(lambda: measured() is False)
            writer.write(b"{}")
            assert (await reader.readuntil(b'"problems": []}')).startswith(b"HTTP/1.1 401")
            assert measured() is False
        writer.close()


async def test_a_stream_may_take_longer_than_a_request() -> None:
    """Once it has begun; what is no stream has ended by then."""
    others_are_over = asyncio.Event()

    async def app(scope: Any, _: Any, send: Any) -> None:
        kind = b"text/event-stream" if scope["path"] == "/stream" else b"text/plain"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await others_are_over.wait()
        await send({"type": "http.response.body", "body": b"done"})

    transport = httpx.ASGITransport(Limits(app, seconds=0.05))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        stream = asyncio.create_task(client.get("/stream"))
        with pytest.raises(TimeoutError):
            await client.get("/other")
        others_are_over.set()
        assert (await stream).text == "done"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[" * 5000 + b"]" * 5000, "it is nested too deeply"),
        (b"9" * 5000, "it cannot be read: Exceeds the limit (4300 digits) for integer string conversion: value has "
         "5000 digits"),
        (b'"\xff"', "it cannot be read: 'utf-8' codec can't decode byte 0xff in position 12: invalid start byte"),
    ],
    ids=["deep", "digits", "bytes"],
)  # fmt: skip
async def test_a_body_that_cannot_be_read_is_told_why(door: Gate, body: bytes, says: str) -> None:
    headers = await door.as_(Role.SENDER) | {"Content-Type": "application/json"}
    sent = await door.client.post("/signals/paid", content=b'{"payload":%s}' % body, headers=headers)
    assert (sent.status_code, sent.json()["problems"]) == (400, [{"field": "body", "reason": says}])
    assert await door.signals() == []
