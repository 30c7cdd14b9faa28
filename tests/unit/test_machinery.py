"""The small things the rest stands on: clock, states, holders, crash points, and what is refused at decoration."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psutil
import pytest

from standby import UsageError, agent, clock, faults, holder, idempotency_key, now, random, settings, step, uuid
from standby.states import ENDED, RUN_EDGES, WAIT_EDGES, RunState, WaitState
from standby.testing import crash
from standby.threads import in_own_thread

# Clock.


def test_the_time_is_aware_and_utc() -> None:
    assert clock.utcnow().tzinfo is UTC


def test_the_clock_can_be_told_the_time() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    clock.set_source(lambda: noon)
    try:
        assert clock.utcnow() == noon
    finally:
        clock.set_source(None)
    assert clock.utcnow() > noon


def test_a_time_is_aware_or_refused() -> None:
    east = timezone(timedelta(hours=2))
    assert clock.require_aware(datetime(2026, 3, 1, 12, tzinfo=east), "x").isoformat() == "2026-03-01T10:00:00+00:00"
    with pytest.raises(ValueError, match="The start has no time zone"):
        clock.require_aware(datetime(2026, 3, 1), "The start")  # noqa: DTZ001


# States.


def test_every_state_has_its_edges() -> None:
    assert set(RUN_EDGES) == set(RunState)
    assert set(WAIT_EDGES) == set(WaitState)


def test_a_completed_run_goes_nowhere_and_every_other_can_be_taken_up() -> None:
    assert RUN_EDGES[RunState.COMPLETED] == frozenset()
    assert {state for state, after in RUN_EDGES.items() if RunState.RUNNING in after} == set(RunState) - {
        RunState.COMPLETED
    }
    assert all(RunState.PARKED not in RUN_EDGES[state] for state in ENDED)


def test_every_state_is_reached() -> None:
    assert {after for edges in RUN_EDGES.values() for after in edges} == set(RunState)
    assert {after for edges in WAIT_EDGES.values() for after in edges} == set(WaitState)


# Holders.


def test_a_process_that_lives_is_not_dead() -> None:
    me = holder.this_process()
    assert str(os.getpid()) in me
    assert me == holder.this_process()
    assert not holder.is_dead(me)


def in_a_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_process_that_is_gone_is_dead() -> None:
    gone = in_a_process("from standby import holder; print(holder.this_process())")
    assert holder.is_dead(gone)


def test_a_process_that_is_only_waited_for_is_dead() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        machine = holder.this_process().rsplit("/", 2)[0]
        named = f"{machine}/{child.pid}/{holder.started(child.pid)}"
        assert not holder.is_dead(named)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert holder.is_dead(named)


def test_another_process_under_the_same_number_is_another_one() -> None:
    machine, pid, _ = holder.this_process().rsplit("/", 2)
    assert holder.is_dead(f"{machine}/{pid}/1.00")


def test_a_process_of_another_machine_or_boot_cannot_be_judged() -> None:
    assert not holder.is_dead("elsewhere:boot:pid:[1]/1/1.00")


def test_a_clock_that_is_set_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failure 38: what the machine takes for its boot time moves with its clock, and processes live on."""
    me = holder.this_process()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: time.time() - 10)
    assert not holder.is_dead(me)


# Crash points.


def test_nothing_happens_at_a_point_until_it_is_armed() -> None:
    for point in crash.POINTS:
        faults.reach(point)


@pytest.mark.parametrize("where", ["step.acted", "step.acted:3"])
def test_a_process_dies_at_the_point_it_was_armed_at(where: str) -> None:
    code = (
        "import sys; from standby import faults; from standby.testing import crash; crash.arm(sys.argv[1])\n"
        "for n in range(5):\n    faults.reach('step.before'); print(n, flush=True); faults.reach('step.acted')"
    )
    done = subprocess.run([sys.executable, "-c", code, where], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == [str(n) for n in range(int(where.partition(":")[2] or 1))]


def test_a_point_there_is_not_cannot_be_armed() -> None:
    with pytest.raises(ValueError, match=r"no crash point 'step.over'. The points are run.attached, "):
        crash.arm("step.over")


def test_every_point_is_reached_somewhere_and_explained() -> None:
    package = Path(faults.__file__).parent
    code = "".join(path.read_text() for path in package.rglob("*.py"))
    for point in crash.ALL_POINTS:
        assert f'reach("{point}")' in code, point
        assert f"``{point}``" in (crash.__doc__ or ""), point
    assert set(re.findall(r'reach\("(.*?)"\)', code)) == set(crash.ALL_POINTS)


# What is refused when it is declared, before anything runs.


async def probe() -> int | None: ...


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"probe": probe}, "only effect='once' uses"),
        ({"effect": "once", "retries": 2}, "a failed try may have acted"),
        ({"retries": -1}, "has retries=-1.* would never be tried"),
        ({"retries": -1, "visible": False}, "has retries=-1.* would never be tried"),
    ],
)
def test_a_step_that_cannot_keep_its_promise_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):

        @step(**options)
        async def pay() -> int:
            return 1


def test_a_step_with_an_effect_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match="effect= is 'repeatable' or 'once', not 'twice'"):
        step(effect="twice")(probe)


def test_a_step_that_acts_once_and_can_be_probed_may_be_tried_again() -> None:
    assert step(effect="once", retries=2, probe=probe)(probe).options.retries == 2


@pytest.mark.parametrize("key", ["", "a#2", "a/b", "a?"])
def test_a_key_that_could_be_taken_for_another_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="will not do"):
        step(probe).with_options(key=key)


def test_a_name_that_could_be_taken_for_a_key_is_refused() -> None:
    for name in ("pay#2", "pay?", "a/b"):
        with pytest.raises(UsageError, match="will not do"):
            step(name=name)(probe)


def test_an_agent_with_flow_retries_is_refused() -> None:
    with pytest.raises(UsageError, match="Put retries on steps"):

        @agent(retries=3)
        async def payer() -> None: ...


def test_an_agent_is_named_as_prefect_names_flows() -> None:
    @agent
    async def invoice_agent() -> None: ...

    assert invoice_agent.name == "invoice-agent"


# Outside an agent.


async def test_a_step_outside_an_agent_is_the_function_itself() -> None:
    @step(effect="once", retries=0, timeout_seconds=0.001)
    async def double(number: int) -> int:
        """Twice the number."""
        return number * 2

    assert await double(4) == 8
    assert (double.__name__, double.__doc__) == ("double", "Twice the number.")


async def test_what_is_replayed_in_an_agent_is_itself_outside() -> None:
    assert (await now()).tzinfo is UTC
    assert await uuid() != await uuid()
    assert 0 <= await random() < 1


def test_there_is_no_idempotency_key_outside_a_step() -> None:
    with pytest.raises(UsageError, match="outside a step"):
        idempotency_key()


# Where the ledger is.


def test_the_ledger_is_where_the_process_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path))
    assert settings.told_ledger_url() is None
    assert settings.default_ledger_url() == f"sqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("STANDBY_LEDGER_URL", "postgresql://host/ledger")
    assert settings.told_ledger_url() == "postgresql://host/ledger"


async def test_a_source_in_a_thread_that_raises_stop_iteration_fails() -> None:
    """No future can hold it: who waits for the source would wait for ever."""

    def first_row() -> str:
        return next(iter(()))

    with pytest.raises(RuntimeError, match="first_row raised StopIteration: give next"):
        await asyncio.wait_for(asyncio.wrap_future(in_own_thread(first_row)), 10)
