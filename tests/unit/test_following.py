"""Prefect follows: in order for each run, again when the server is busy, and nothing that is out of date."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from prefect.exceptions import Abort, PrefectHTTPStatusError

from standby.host.slots import Slots
from standby.parking import following as module
from standby.parking.following import Following, Gate
from tests.support.waiting import wait_until

Call = Callable[[], Awaitable[str]]


@pytest.fixture
async def following() -> AsyncIterator[Following]:
    made = Following()
    yield made
    await made.close()


def busy(status: int = 503) -> PrefectHTTPStatusError:
    request = httpx.Request("POST", "http://prefect/api")
    return PrefectHTTPStatusError(
        "database is locked", request=request, response=httpx.Response(status, request=request)
    )


class Server:
    """Takes calls, and says no to the first ones."""

    def __init__(self, refuses: int = 0) -> None:
        self.calls: list[str] = []
        self.refuses = refuses
        self.inside = self.most = 0

    def takes(self, what: str) -> Call:
        async def call() -> str:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0)
            self.inside -= 1
            if self.refuses:
                self.refuses -= 1
                raise busy()
            self.calls.append(what)
            return what

        return call


async def test_the_changes_of_a_run_are_sent_in_their_order_whatever_the_server_says(following: Following) -> None:
    server = Server(refuses=4)
    changes = [following.later("run", server.takes(str(number))) for number in range(5)]
    assert following.behind == 5
    assert await asyncio.gather(*changes) == list("01234")
    assert server.calls == list("01234")
    assert (following.behind, following.lag) == (0, 0)


async def test_a_page_of_a_proxy_is_no_answer(following: Following) -> None:
    """In place of the server's, which may be away for any time."""
    server, pages = Server(), ["<p>maintenance</p>"] * 3

    async def spoiled() -> str:
        if pages:
            json.loads(pages.pop())
        return await server.takes("told")()

    assert await following.later("run", spoiled) == "told"


@pytest.mark.parametrize("error", [busy(408), httpx.DecodingError("no gzip"), httpx.TooManyRedirects("in circles")])
async def test_what_a_proxy_says_for_itself_is_no_answer(following: Following, error: Exception) -> None:
    server, spoiled = Server(), [error] * 2

    async def call() -> str:
        if spoiled:
            raise spoiled.pop()
        return await server.takes("told")()

    assert await following.later("run", call) == "told"


async def test_runs_do_not_wait_for_each_other(following: Following) -> None:
    gate = asyncio.Event()
    held = following.later("one", gate.wait)
    await asyncio.wait_for(following.later("another", Server().takes("done")), 10)
    assert not held.done()
    gate.set()
    await held


async def test_a_run_that_goes_on_at_once_is_not_shown_as_parked(following: Following) -> None:
    server, gate = Server(), asyncio.Event()
    first = following.later("run", gate.wait)
    following.later("run", server.takes("parked"), parks=True)
    assert following.goes_on("run")
    gate.set()
    await first
    await following.drained("run")
    assert server.calls == []


async def test_what_is_on_its_way_cannot_be_taken_back(following: Following) -> None:
    gate = asyncio.Event()
    parked = following.later("run", gate.wait, parks=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not following.goes_on("run")
    gate.set()
    await parked
    assert not following.goes_on("run")


async def test_what_the_server_refuses_is_told_and_the_next_change_is_sent(following: Following) -> None:
    async def refused() -> None:
        raise Abort("not so")

    first, second = following.later("run", refused), following.later("run", Server().takes("next"))
    with pytest.raises(Abort, match="not so"):
        await first
    assert await second == "next"


async def test_what_must_be_told_is_told_again_where_it_is_refused(following: Following) -> None:
    """By what may be a proxy; Prefect itself refuses with an answer."""
    answers = [busy(409), busy(404)]

    async def told() -> str:
        if answers:
            raise answers.pop()
        return "told"

    with pytest.raises(PrefectHTTPStatusError):
        await following.later("run", told)
    assert await following.later("run", told, surely=True) == "told"


async def test_runs_that_wake_come_before_what_prefect_is_told_of_others() -> None:
    """But not for ever: Prefect hears within two seconds of what can be told."""
    busy = True
    following = Following(lambda: busy)
    server = Server()
    told = following.later("run", server.takes("told"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert server.calls == []
    busy = False
    assert await told == "told"
    busy = True
    assert await asyncio.wait_for(following.later("run", server.takes("late")), 30) == "late"
    await following.close()


async def test_a_busy_server_is_asked_by_fewer_at_once() -> None:
    gate = Gate(8)
    server = Server()

    async def ask() -> None:
        async with gate:
            await server.takes("")()

    await asyncio.gather(*(ask() for _ in range(50)))
    assert server.most == 8
    for _ in range(3):
        with pytest.raises(PrefectHTTPStatusError):
            async with gate:
                raise busy(429)
    server.most = 0
    await asyncio.gather(*(ask() for _ in range(2)))
    assert server.most == 1
    await asyncio.gather(*(ask() for _ in range(100)))
    assert server.most > 4, "and by more again when it is well"


async def test_a_turn_that_is_given_up_goes_to_the_next_one() -> None:
    slots = Slots(1)
    await slots.enter("a")
    turns = [asyncio.ensure_future(slots.enter(name)) for name in ("b", "c", "d")]
    await asyncio.sleep(0)
    assert (slots.taken, slots.waiting) == (1, 3)
    turns[0].cancel()
    await asyncio.sleep(0)
    slots.leave("a")
    await turns[1]
    assert not turns[2].done()
    slots.leave("c")
    await turns[2]
    slots.leave("d")
    assert (slots.taken, slots.waiting) == (0, 0)


async def test_a_change_that_the_server_cannot_take_is_given_up_and_one_of_a_busy_server_never(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.0, 0.0))
    asked = []

    async def broken() -> None:
        asked.append(1)
        raise busy(500)

    with pytest.raises(PrefectHTTPStatusError):
        await following.later("one", broken)
    assert len(asked) == module.TRIES
    server = Server(refuses=3 * module.TRIES)
    assert await following.later("one", server.takes("after all")) == "after all"


async def test_one_run_that_is_refused_for_ever_does_not_stop_the_host(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others are taken; when none is, the server is the trouble."""
    monkeypatch.setattr(module, "LATE_SECONDS", 0.0)

    async def refused() -> None:
        raise busy()

    following.later("one", refused)
    await wait_until(lambda: following._runs["one"][0].refused is not None)
    assert following.is_late
    await following.later("another", Server().takes("done"))
    assert not following.is_late
    await asyncio.wait_for(following.caught_up(), 10)
    assert following.behind == 1
