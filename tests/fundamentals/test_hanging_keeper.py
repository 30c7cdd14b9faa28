"""A keeper ends when it is told to, whatever it is asking."""

import asyncio
import os
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from standby import Condition
from tests.fundamentals.conftest import Desk
from tests.ledger import acts
from tests.support.waiting import wait_until

SOON = timedelta(seconds=0.05)


def hangs_for_good(told: str) -> None:
    Path(told).touch()
    while True:
        threading.Event().wait()


KEEPER = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests in the background has it ignored
sys.argv = ["standby", "keeper"]
runpy.run_module("standby", run_name="__main__")
"""


async def test_a_source_that_hangs_keeps_no_keeper_from_ending(desk: Desk, tmp_path: Path) -> None:
    told = tmp_path / "asked"
    condition = Condition("paid", poll=hangs_for_good, args={"told": str(told)}, every=SOON, at_most=SOON)
    await acts.parked(desk.ledger, [condition.row("paid")], run=str(uuid4()))
    said = tmp_path / "keeper.err"
    with said.open("wb") as errors:
        keeper = await asyncio.create_subprocess_exec(
            sys.executable, "-X", "faulthandler", "-c", KEEPER,
            env=os.environ | {"PREFECT_API_URL": desk.url}, stdout=asyncio.subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
    try:
        await wait_until(told.exists, 60)
        keeper.send_signal(signal.SIGINT)
        await asyncio.wait_for(keeper.wait(), 60)
    except TimeoutError:
        keeper.send_signal(signal.SIGABRT)  # it says where each of its threads is
        await keeper.wait()
        raise AssertionError(f"it has not ended: {said.read_text()[-6000:]}") from None
    finally:
        if keeper.returncode is None:
            keeper.kill()
            await keeper.wait()
