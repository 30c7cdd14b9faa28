"""Hosts that are killed, and hosts that freeze: others go on with what they had, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from standby.holder import is_dead
from standby.states import Hold, RunState
from tests.host.conftest import AGENTS, Inn, Run
from tests.support.freezing import freeze
from tests.support.server import prefect_env
from tests.support.waiting import wait_until

pytestmark = pytest.mark.filterwarnings(
    r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"
)


class Elsewhere:
    """A host in a process of its own, which can be killed and frozen."""

    def __init__(self, inn: Inn, folder: Path) -> None:
        self._log = folder / "host.log"
        told = [
            name
            for name in ("STANDBY_LEDGER_URL", "STANDBY_HOME", "OUTSIDE", "STANDBY_HOST_GRACE")
            if name in os.environ
        ]
        env = prefect_env(folder / "prefect", PREFECT_API_URL=inn.url, **{name: os.environ[name] for name in told})
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "standby", "host", "--pool", inn.pool, "--name", "elsewhere"],
                env=env, cwd=AGENTS, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text()

    def does(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def elsewhere(inn: Inn, tmp_path: Path) -> Iterator[Elsewhere]:
    made = Elsewhere(inn, tmp_path)
    yield made
    made.close()


async def settled_in(inn: Inn, elsewhere: Elsewhere) -> tuple[Run, Run]:
    """Two runs in the other host: one is parked warm, one is running. There is no host here meanwhile."""
    await inn.closes()
    warm, busy = await inn.start("visitor", rounds=2), await inn.start("worker", steps=1500)
    row = await warm.is_in(RunState.PARKED, within=150)  # the host has just been started
    assert row.hold == Hold.WARM, elsewhere.log
    assert str(elsewhere.process.pid) in row.holder
    await warm.is_shown_as("Suspended")
    await busy.is_in(RunState.RUNNING)
    return warm, busy


async def both_go_on(inn: Inn, warm: Run, busy: Run) -> None:
    await warm.signal("round-0", 1)
    await wait_until(lambda: warm.deeds("round 0"), shows=warm.shown)
    await wait_until(lambda: busy.id in inn.host.guests, shows=busy.shown)


async def all_is_done_once(warm: Run, busy: Run) -> None:
    await warm.is_in(RunState.PARKED)
    await warm.signal("round-1", 1)
    assert await warm.result() == 2
    assert await busy.result(within=300) == 1500
    assert (warm.deeds("came"), warm.deeds("round 0"), warm.deeds("round 1")) == (1, 1, 1)


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
async def test_a_host_takes_back_at_its_start_what_a_killed_one_had(inn: Inn, elsewhere: Elsewhere) -> None:
    """Rows 12 and 40: at once, for on the same machine it is certain that the other is dead."""
    warm, busy = await settled_in(inn, elsewhere)
    elsewhere.close()
    assert is_dead((await busy.row()).holder)
    await inn.opens()
    row = await warm.row()
    assert (row.state, row.hold, row.holder) == (RunState.PARKED, Hold.SUSPEND, None)
    await both_go_on(inn, warm, busy)
    await all_is_done_once(warm, busy)


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_frozen_host_loses_what_it_has_and_is_fenced_when_it_thaws(
    inn: Inn, elsewhere: Elsewhere, ledger_url: str
) -> None:
    """Row 41: within its lease others have its runs; it does nothing more about them."""
    warm, busy = await settled_in(inn, elsewhere)
    await freeze(elsewhere.process.pid, ledger_url)
    await inn.opens()

    async def taken_over() -> bool:
        rows = await warm.row(), await busy.row()
        return all(str(elsewhere.process.pid) not in (row.holder or "") for row in rows)

    await wait_until(taken_over, every=0.5, shows=warm.shown)
    await both_go_on(inn, warm, busy)
    elsewhere.does(signal.SIGCONT)
    # Before the run ends: that it hears of from Prefect, and lets it go for that.
    await wait_until(lambda: "is another's now" in elsewhere.log, shows=lambda: elsewhere.log)
    await all_is_done_once(warm, busy)
    elsewhere.does(signal.SIGTERM)
    await wait_until(lambda: not psutil.pid_exists(elsewhere.process.pid) or elsewhere.process.poll() is not None)
    assert elsewhere.process.returncode == 0, elsewhere.log
