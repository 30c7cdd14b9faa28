"""When a host gives memory back: after many attempts, and while nothing is at work."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import pytest

from standby.host import tidying
from tests.support.waiting import wait_until


class Circle:
    def __init__(self) -> None:
        self.me = self


class Busy:
    """A host, as far as it matters."""

    ended, calm = 0, False
    counts = looks = 0

    @property
    def over(self) -> int:
        self.counts += 1
        return self.ended

    @property
    def is_calm(self) -> bool:
        self.looks += 1
        return self.calm


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Iterator[weakref.ref[Circle]]:
    """What only the collector can free, which does not come by itself."""
    monkeypatch.setattr(tidying, "LOOK_SECONDS", 0.001)
    gc.disable()
    yield weakref.ref(Circle())
    gc.enable()


async def counted_again(host: Busy) -> None:
    counts = host.counts
    await wait_until(lambda: host.counts >= counts + 3)


async def test_memory_is_given_back_when_many_attempts_are_over_and_nothing_is_at_work(
    lost: weakref.ref[Circle],
) -> None:
    host = Busy()
    task = asyncio.create_task(tidying.tidy(cast("Any", host)))
    await wait_until(lambda: host.counts)
    host.calm, host.ended = True, tidying.ATTEMPTS - 1
    await counted_again(host)
    assert host.looks == 0, "too few are over"
    host.calm, host.ended = False, tidying.ATTEMPTS
    await wait_until(lambda: host.looks >= 3)
    assert lost() is not None, "something is at work"
    host.calm = True
    await wait_until(lambda: lost() is None)
    looks = host.looks
    host.ended += 1
    await counted_again(host)
    assert host.looks == looks, "it counts anew"
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
