"""A host's part in one run, without Prefect: it is begun once, hears each call, and is given back when nothing acts."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import weakref
from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.responses import SetStateStatus

from standby import clock, settings
from standby.checkpoints import CheckpointStore
from standby.errors import LedgerUnavailable
from standby.host.guest import Guest, Phase
from standby.host.host import Host
from standby.hosting import Woken
from standby.ledger import Ledger
from standby.parking import lingering
from standby.runs import AgentRun
from standby.states import Hold, RunState
from standby.stops import Fenced, Left, met
from tests.ledger.acts import ME, answer, approval, claim, open_group
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)

RUN = "00000000-0000-4000-8000-000000000001"


class Prefect:
    """Its server, as far as a host asks it for one run."""

    def __init__(self, name: str) -> None:
        self.history = [_state(name)]
        self.sent: list[str] = []

    @property
    def state(self) -> Any:
        return self.history[-1]

    @state.setter
    def state(self, state: Any) -> None:
        self.history.append(state)

    async def read_flow_run(self, run_id: Any) -> Any:
        return SimpleNamespace(id=run_id, name="a run", state=self.state, deployment_id="deployment")

    async def read_flow_runs(self, *, flow_run_filter: Any, **_: Any) -> list[Any]:
        return [await self.read_flow_run(run_id) for run_id in flow_run_filter.id.any_]

    async def read_flow_run_states(self, _: Any) -> list[Any]:
        return self.history

    async def set_flow_run_state(self, run_id: Any, state: Any, force: bool = False) -> Any:
        self.sent.append(state.name)
        self.history.append(state)
        return SimpleNamespace(status=SetStateStatus.ACCEPT)


@pytest.fixture
async def host(ledger: Ledger, ledger_url: str) -> AsyncIterator[Host]:
    async def deployments() -> set[str]:
        return {"deployment"}

    made = Host(
        ledger,
        ledger_url,
        Prefect("Running"),
        Placing(),
        deployments=deployments,
        open_client=lambda: None,
        limit=1,  # type: ignore[arg-type, return-value]
    )
    made.holder, made.address, made.open = ME, "127.0.0.1:7", True
    made.deployments = await deployments()
    yield made
    made.open = False
    await asyncio.gather(*made._tasks, made.returns.made())
    await made.warmth.close()
    await made.following.close()


class Placing:
    """Takes its time to load the code, and finds none."""

    def __init__(self) -> None:
        self.asked, self.loaded = 0, asyncio.Event()

    async def of(self, flow_run: Any) -> Any:
        self.asked += 1
        await self.loaded.wait()
        return SimpleNamespace(flow=None, why="this is a test")


async def ready(ledger: Ledger, *, hold: Hold = Hold.SUSPEND, address: str | None = "127.0.0.1:7#") -> None:
    """The run is parked, and answered."""
    await claim(ledger, RUN)
    [wait] = (await open_group(ledger, [approval()], run=RUN)).waits
    await ledger.runs.park(RUN, 1, "approval", hold, address)
    await answer(ledger, wait.id)


async def test_a_run_that_the_ledger_and_prefect_give_at_once_is_begun_once(ledger: Ledger, host: Host) -> None:
    """Answered while the host was down: it is adopted and polled. Who comes second is turned away, then asked again."""
    await ready(ledger)
    placing: Any = host.placing
    sought: list[str] = []
    host.intake.seek = sought.append
    host.plain.state = _state("Resuming")  # type: ignore[attr-defined]
    taking = asyncio.create_task(host.intake.take_up(RUN))
    await wait_until(lambda: placing.asked)
    assert not host.intake.enters(RUN), "Prefect's copy"
    await host.intake.take_up(RUN)
    assert placing.asked == 1
    assert host.slots.taken == 1, "who was turned away has not left the other's slot"
    placing.loaded.set()
    await taking
    assert "deployment" not in host.deployments, "it has a process of its own, so its runs are not adopted"
    assert (list(host.intake.wanted), sought) == ([RUN], [RUN])
    host.intake.stop()
    assert host.slots.taken == 0, "but for its next turn"
    assert host.intake.enters(RUN)


async def test_a_host_keeps_the_lease_of_what_it_takes_up_while_its_code_is_loaded(
    ledger: Ledger, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run whose code takes longer to load than a lease lasts is taken over meanwhile."""
    monkeypatch.setattr(settings, "RENEW_EVERY", timedelta(seconds=0.05))
    await ready(ledger)
    placing: Any = host.placing
    taking = asyncio.create_task(host.intake.take_up(RUN))
    await wait_until(lambda: placing.asked)
    first = await ledger.runs.get(RUN)
    assert first is not None

    async def renewed() -> bool:
        row = await ledger.runs.get(RUN)
        return row is not None and row.lease_expires_at > first.lease_expires_at

    await wait_until(renewed)
    placing.loaded.set()
    await taking


@pytest.mark.parametrize(("shown", "sent"), [("Suspended", ["Resuming"]), ("Pending", []), ("Running", [])])
async def test_a_run_that_cannot_be_begun_here_is_left_to_the_process_that_prefect_has_for_it(
    ledger: Ledger, host: Host, shown: str, sent: list[str]
) -> None:
    """A process that takes its time to its first line has not the run yet, and needs no second one beside it. It waits
    while the host looks at the run."""
    await ready(ledger)
    prefect: Any = host.plain
    prefect.state = _state(shown)
    host.placing.loaded.set()  # type: ignore[attr-defined]
    await host.intake.take_up(RUN)
    await host.returns.made()
    row = await ledger.runs.get(RUN)
    assert row is not None
    assert (row.state, row.holder, row.wake_address) == (RunState.READY, None, None)
    assert prefect.sent == sent


async def test_what_the_ledger_has_warm_here_and_is_not_here_is_taken_up(ledger: Ledger, host: Host) -> None:
    """A wake that came to nobody: that run only becomes cold, and the host's own."""
    await ready(ledger, hold=Hold.WARM)
    await host._look()
    row = await ledger.runs.get(RUN)
    assert row is not None
    assert (row.hold, row.holder, row.attempt, row.wake_address) == (Hold.SUSPEND, None, 2, f"127.0.0.1:7#{RUN}")
    assert list(host.intake.wanted) == [RUN]


async def test_a_run_that_was_cancelled_is_not_shown_as_running(ledger: Ledger, host: Host) -> None:
    """Prefect would take it: neither over its Cancelled, nor for an attempt that the ledger has ended."""
    prefect: Any = host.plain
    await claim(ledger, RUN)
    prefect.state = _state("Cancelled")
    host.ends.show_running(RUN, 1)
    await host.following.drained(RUN)

    async def ended() -> bool:
        row = await ledger.runs.get(RUN)
        return row is not None and row.state == RunState.CANCELLED

    await wait_until(ended)
    prefect.state = _state("Resuming")
    host.ends.show_running(RUN, 1)
    await host.following.drained(RUN)
    assert "Running" not in prefect.sent


async def test_a_cancel_that_running_has_overtaken_is_shown_in_the_end(ledger: Ledger, host: Host) -> None:
    """The host has the run, and no guest yet: it is ended all the same."""
    await claim(ledger, RUN)
    prefect: Any = host.plain
    prefect.history = [_state("Cancelled"), _state("Running")]
    host.ends.cancel_soon(RUN)
    await wait_until(lambda: prefect.state.name == "Cancelled")
    assert prefect.sent == ["Cancelled"]


async def test_a_page_instead_of_an_answer_is_no_error_of_whoever_looks_how_a_run_ended(
    ledger: Ledger, host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What has seen nothing says so, and the keeper follows."""

    async def page(_: Any) -> Any:
        raise json.JSONDecodeError("Expecting value", "<html>", 0)

    await claim(ledger, RUN)
    monkeypatch.setattr(host.plain, "read_flow_run", page)
    monkeypatch.setattr(host.plain, "read_flow_run_states", page)
    host.ends.heed_cancel(RUN)
    host.ends.look_soon(RUN)
    host.ends.end_soon(RUN, _state("Cancelled"))
    await asyncio.gather(*host._tasks, host.returns.made())
    assert len([line for line in caplog.messages if RUN in line and "Expecting value" in line]) == 3


async def test_a_call_is_heard_in_every_phase(host: Host) -> None:
    guest = guest_of(host)
    guest.phase = Phase.RUNNING
    guest.nudge(Woken.SETTLED)  # the ledger had it parked, and it did not know yet
    guest._rests()
    assert await guest.until_woken(0) is Woken.SETTLED
    assert guest.phase is Phase.WAKING
    guest.nudge(Woken.RESUMED)  # while it looked for what it was called before
    guest.lingers_on()
    assert await guest.until_woken(0) is Woken.RESUMED
    guest.lingers_on()
    guest.nudge(Woken.EVICTED)
    guest.nudge(Woken.SETTLED)
    assert await guest.until_woken(None) is Woken.SETTLED, "an answer goes before an eviction"


async def test_what_is_expected_of_a_run_is_kept_no_longer_than_the_run(ledger: Ledger, host: Host) -> None:
    """Also where it does not come to a bill."""
    await claim(ledger, RUN)
    guest = guest_of(host)
    guest.flow.name, guest.flow.timeout_seconds, guest.run = "an-agent", None, run_in(ledger)
    cold = (await open_group(ledger, [approval("cold", hold="suspend")], run=RUN)).waits
    assert (await guest.linger_seconds(cold), len(host.warmth.held)) == (0, 0)
    waits = (await open_group(ledger, [approval()], run=RUN)).waits
    assert await guest.linger_seconds(waits)
    kept = weakref.ref(guest)
    del guest
    gc.collect()
    assert (kept(), len(host.warmth.held)) == (None, 0)


async def test_who_is_called_while_prefect_is_told_of_its_eviction_stays(host: Host) -> None:
    guest, told = guest_of(host), asyncio.Event()
    guest.phase = Phase.WARM
    guest._suspended = host.following.later(RUN, told.wait)
    going = asyncio.create_task(guest.shown())
    await asyncio.sleep(0)
    guest.nudge(Woken.SETTLED)
    assert await going is Woken.SETTLED
    told.set()


@pytest.mark.parametrize(("every", "said"), [(60.0, 1), (0.0, 5)])
async def test_an_answered_run_that_cannot_reach_the_ledger_says_so_now_and_then(
    ledger: Ledger,
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    every: float,
    said: int,
) -> None:
    """It asks twice a second, and is not one of few."""
    await ready(ledger, hold=Hold.WARM)
    monkeypatch.setattr(lingering, "LEDGER_AWAY_SECONDS", 0.0)
    monkeypatch.setattr(lingering, "SAID_EVERY_SECONDS", every)
    claim_warm, tries = ledger.hosted.claim_warm, iter(range(6))

    async def away(*about: Any, **options: Any) -> int | None:
        if next(tries) < 5:
            raise LedgerUnavailable(ledger.database.shown, OSError("it is away"))
        return await claim_warm(*about, **options)

    monkeypatch.setattr(ledger.hosted, "claim_warm", away)
    attempt, _, group = await lingering._goes_on(run_in(ledger), guest_of(host), "approval", Woken.SETTLED)
    assert (attempt, group.ready) == (2, True)
    assert len([line for line in caplog.messages if "lingers on" in line]) == said


async def test_a_run_is_given_back_when_no_thread_acts_for_it_any_more(ledger: Ledger, host: Host) -> None:
    await claim(ledger, RUN)
    run = run_in(ledger)
    acting, acted = threading.Event(), threading.Event()

    def act() -> None:
        acting.set()
        acted.wait(30)

    step = asyncio.create_task(run.threads.call(act))
    await wait_until(acting.is_set)
    step.cancel()
    back = asyncio.create_task(host.returns.give_back(RUN, 1, run))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(back), 0.05)
    row = await ledger.runs.get(RUN)
    assert row is not None
    assert row.state == RunState.RUNNING, "its step acts on"
    acted.set()
    await back
    row = await ledger.runs.get(RUN)
    assert row is not None
    assert row.state == RunState.READY


async def test_what_has_just_begun_when_the_host_ends_goes_to_another(ledger: Ledger, host: Host) -> None:
    prefect: Any = host.plain
    prefect.state = _state("Pending")
    guest = guest_of(host)
    guest.leave_soon()
    guest.begins(
        run := AgentRun(RUN, 1, Hold.WARM, ledger, CheckpointStore(url="sqlite://"), [], sure_at=clock.elapsed())
    )
    assert run.host_ends, "it goes no further than its next checkpoint"
    late = guest_of(host)
    late.leave()
    host._over(late)
    await wait_until(lambda: prefect.sent == ["Resuming"])


@pytest.mark.parametrize("signal", [Fenced(RUN, 1), Left(RUN)])
async def test_a_stop_signal_in_a_task_group_is_one(signal: BaseException, ledger_url: str) -> None:
    assert met(BaseExceptionGroup("", [ValueError(), BaseExceptionGroup("", [signal])]), Fenced, Left) is signal
    assert met(BaseExceptionGroup("", [ValueError(), KeyboardInterrupt()]), Fenced, Left) is None


def run_in(ledger: Ledger) -> AgentRun:
    return AgentRun(RUN, 1, Hold.WARM, ledger, CheckpointStore(url="sqlite://"), [], sure_at=clock.elapsed())


def guest_of(host: Host) -> Guest:
    return Guest(
        host, SimpleNamespace(id=RUN, name="a run", state=_state("Pending"), deployment_id=None), SimpleNamespace()
    )  # type: ignore[arg-type]


def _state(name: str) -> Any:
    from prefect import states

    made = states.Scheduled if name == "Resuming" else getattr(states, name)
    return made() if name == "Suspended" else made(name=name)
