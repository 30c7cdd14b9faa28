"""What a host does for as long as it lives outlives any error, which is logged with what is not done meanwhile."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import InvalidRequestError

from standby import settings
from standby.host import host as host_module
from standby.host import lasting, tidying, warmth
from standby.host.host import Host
from standby.ledger import Ledger
from standby.parking.following import Following
from standby.states import Hold
from tests.ledger.acts import ME
from tests.support.waiting import wait_until
from tests.unit.test_guests import RUN, Placing, Prefect, ready

pytestmark = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)

MANY = 3


@pytest.fixture
async def host(ledger: Ledger, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    """One that lives, and looks often; without a keeper."""
    for module in (host_module, tidying):
        monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(warmth, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(lasting, "AGAIN_SECONDS", 0.01)

    async def deployments() -> set[str]:
        return {"deployment"}

    placing: Any = Placing()
    placing.loaded.set()
    prefect: Any = Prefect("Suspended")
    async with Host(
        ledger, ledger_url, prefect, placing, deployments=deployments, open_client=lambda: prefect, limit=1, keep=False
    ) as made:
        yield made


class Failing:
    """Raises what nobody has thought of, until it is mended."""

    def __init__(self) -> None:
        self.calls, self.mended = 0, False

    def __call__(self, *_: Any) -> Any:
        self.calls += 1
        if not self.mended:
            raise InvalidRequestError("This connection is closed")
        return []

    async def awaited(self, *_: Any) -> Any:
        return self()


class Loading(Placing):
    """Takes its time to load the code, and finds it."""

    async def of(self, flow_run: Any) -> Any:
        await super().of(flow_run)
        return SimpleNamespace(flow="agent")


def said(caplog: pytest.LogCaptureFixture, what: str) -> list[logging.LogRecord]:
    """What the log has of it, with a traceback."""
    return [line for line in caplog.records if what in line.getMessage() and line.exc_info]


async def test_a_look_that_fails_is_not_the_last(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing()
    monkeypatch.setattr(host.ledger.hosted, "warm_and_ready", failing.awaited)
    await wait_until(lambda: failing.calls >= MANY)
    assert said(caplog, "what it has not heard of")
    failing.mended, so_far = True, failing.calls
    await wait_until(lambda: failing.calls >= so_far + MANY)


@pytest.mark.parametrize(
    ("owner", "what", "undone"),
    [
        ("warmth", "make_room", "No run is let go to free memory"),
        ("slots", "leave", "Cold runs are not taken up"),
        ("", "is_calm", "The memory of attempts that are over is not given back"),
    ],
)
async def test_a_loop_that_fails_goes_on(
    host: Host,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: str,
    what: str,
    undone: str,
) -> None:
    failing = Failing()
    with monkeypatch.context() as broken:
        if owner:
            broken.setattr(getattr(host, owner), what, failing)
        else:
            broken.setattr(Host, what, property(failing))
        if owner == "slots":  # which who stands aside leaves
            broken.setattr(Following, "is_late", property(lambda _: True))
            await ready(ledger, address="127.0.0.1:7#")
            host.intake.want([RUN])

        def called(times: int) -> bool:
            host.over += tidying.ATTEMPTS  # so many more: it is time to tidy
            return failing.calls >= times

        await wait_until(lambda: called(MANY))
        assert said(caplog, undone)
        failing.mended, so_far = True, failing.calls
        if owner != "slots":
            await wait_until(lambda: called(so_far + MANY))
    if owner == "slots":
        placing: Any = host.placing
        await wait_until(lambda: placing.asked)


async def test_a_host_looks_on_while_the_code_of_what_it_would_call_over_is_loaded(
    host: Host, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time; and a host that ends meanwhile calls nothing over."""
    monkeypatch.setattr(settings, "ELSEWHERE", timedelta())
    failing, placing = Failing(), Loading()
    failing.mended = True
    monkeypatch.setattr(host, "placing", placing)
    await ready(ledger, hold=Hold.WARM)  # in another host
    monkeypatch.setattr(host.ledger.hosted, "warm_and_ready", failing.awaited)
    await wait_until(lambda: placing.asked)
    so_far = failing.calls
    await wait_until(lambda: failing.calls >= so_far + MANY)
    assert placing.asked == 1
    await host.leave(grace=0.0)
    placing.loaded.set()
    await wait_until(lambda: not host.calling_over.under_way)
    row = await ledger.runs.get(RUN)
    assert row is not None
    assert (row.holder, row.hold, row.attempt) == (ME, Hold.WARM, 1)


async def test_nothing_is_called_over_for_a_slot_that_was_taken_while_its_code_was_loaded(
    host: Host, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ELSEWHERE", timedelta())
    placing = Loading()
    monkeypatch.setattr(host, "placing", placing)
    await ready(ledger, hold=Hold.WARM)
    await wait_until(lambda: placing.asked)
    await host.slots.enter("other")
    placing.loaded.set()
    await wait_until(lambda: not host.calling_over.under_way)
    row = await ledger.runs.get(RUN)
    assert row is not None
    assert (row.holder, row.hold, row.attempt) == (ME, Hold.WARM, 1)


async def test_work_that_a_host_has_begun_and_that_fails_is_named(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    async def unheard_of() -> None:
        raise ZeroDivisionError

    task = host.start(unheard_of())
    await wait_until(lambda: said(caplog, "unheard_of"))
    assert task not in host._tasks
