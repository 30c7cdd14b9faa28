"""Agents run as plain Python, one with no server set up: they ask, survive a kill, and act once."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from standby.states import Door, RunState
from tests.invoices.documents import NO_ORDER, SAMPLES
from tests.support.forks import ROOT
from tests.support.server import ON_A_COPY, PrefectServer, copy_database
from tests.support.waiting import wait_until
from tests.system.project import Project

README = (ROOT / "README.md").read_text()

WITHIN = 90.0
"""Seconds to the next thing an agent run by hand says; its temporary server alone takes four when idle."""


async def test_run_by_hand_it_is_answered_from_another_terminal_and_goes_on_after_a_kill(
    project: Project, server_and_new_database: tuple[PrefectServer, Path]
) -> None:
    (project.folder / "prefect").mkdir()
    copy_database(server_and_new_database[1], project.folder / "prefect" / "prefect.db")
    command = [sys.executable, "flows/invoice_agent.py", str(SAMPLES / NO_ORDER)]
    env = {"PREFECT_HOME": str(project.folder / "prefect")} | ON_A_COPY
    said = project.folder / "agent.out"

    with project.process("agent", command, **env) as first:
        await waits_for(said, "Waiting for: Pay 340.20 EUR", first)
        [asked] = (await project.standby("ps", "--json")).json
        assert (asked["flow"], asked["state"], asked["ui"]) == ("invoice-agent", "parked", None)
        first.send_signal(signal.SIGKILL)
        first.wait(10)
    # The same question is still open, for the same run.
    [left] = (await project.standby("ps", "--json")).json
    assert (left["run_id"], left["wait"]["id"]) == (asked["run_id"], asked["wait"]["id"])

    said.unlink()
    with project.process("agent", command, **env) as second:
        await waits_for(said, "Waiting for: Pay 340.20 EUR", second)
        [again] = (await project.standby("ps", "--json")).json
        assert (again["run_id"], again["wait"]["id"]) == (asked["run_id"], asked["wait"]["id"])
        answered = await project.standby("approve", NO_ORDER, "--set", "account=6000", "--json")
        assert (answered.json["accepted"], answered.json["woken"]) == (True, True)
        await wait_until(lambda: second.poll() is not None, WITHIN, every=0.1, shows=said.read_text)
        assert second.returncode == 0, said.read_text()
    receipt = json.loads(re.search(r"^\{.*^\}", said.read_text(), re.MULTILINE | re.DOTALL)[0])  # type: ignore[index]
    assert (receipt["outcome"], receipt["amount"], receipt["account"]) == ("paid", "340.20", "6000")
    async with project.ledger() as ledger:
        [run] = await ledger.runs.all(ended=True)
        assert (run.id, run.state) == (asked["run_id"], RunState.COMPLETED)
        # There is no gateway for the bank to report to: the run has asked it.
        doors = [decision.door for decision in await ledger.waits.decisions_of(run.id)]
        assert doors == [Door.TERMINAL, Door.POLL]


async def test_the_agent_of_the_readme_does_what_the_readme_says(
    project: Project, prefect_server: PrefectServer
) -> None:
    """Saved and run as it stands there, on a Prefect server that is there; only the price's shop is made to count who
    asks."""
    [code] = re.findall(
        r"^Save this as `buyer.py` in the project folder:\n\n```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL
    )
    counted = code.replace("return 1250.0", "open('asked', 'a').write('x'); return 1250.0")
    assert counted != code
    # What is left out when it is started is the same the next time.
    with_default = counted.replace("def buyer(item: str)", "def buyer(item: str, currency: str = 'EUR')")
    assert with_default != counted
    (project.folder / "buyer.py").write_text(with_default)
    command = [sys.executable, "buyer.py"]
    env = {"PREFECT_HOME": str(project.folder / "prefect"), "PREFECT_API_URL": prefect_server.url}
    said = project.folder / "buyer.out"

    with project.process("buyer", command, **env) as first:
        await waits_for(said, "Waiting for: Buy a laptop for 1250.00?", first)
        first.send_signal(signal.SIGKILL)
        first.wait(10)
    said.unlink()
    with project.process("buyer", command, **env) as second:
        await waits_for(said, "Waiting for: Buy a laptop for 1250.00?", second)
        [asked] = (await project.standby("ps", "--json")).json
        approved = await project.standby("approve", asked["wait"]["id"][:8], "--comment", "go ahead")
        assert approved.code == 0, approved
        await wait_until(lambda: second.poll() is not None, WITHIN, every=0.1, shows=said.read_text)
    assert "Ordered a laptop for 1250.00" in said.read_text().splitlines()
    assert (project.folder / "asked").read_text() == "x"


TIDIES_UP = """
import asyncio, signal
from standby import agent, run_here, step

signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests in the background has it ignored


@step(visible=False)
async def work() -> str:
    print("working", flush=True)
    await asyncio.sleep(0 if open("done", "a").tell() else 600)
    return "worked"


@step(visible=False)
async def tidy_up() -> None:
    print("tidied up", flush=True)


@agent
async def careful() -> str:
    try:
        return await work()
    finally:
        await tidy_up()


print("result:", asyncio.run(run_here(careful)), flush=True)
"""


@pytest.mark.parametrize(
    ("by", "code", "last"),
    [(signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, 1, "prefect.exceptions.TerminationSignal")],
)
async def test_after_ctrl_c_or_sigterm_the_same_command_goes_on_also_where_the_agent_tidies_up_in_a_step(
    project: Project, prefect_server: PrefectServer, by: signal.Signals, code: int, last: str
) -> None:
    """The end of the process is no cut that the agent has dealt with: a replay would stand there for ever."""
    (project.folder / "careful.py").write_text(TIDIES_UP)
    command = [sys.executable, "careful.py"]
    env = {"PREFECT_HOME": str(project.folder / "prefect"), "PREFECT_API_URL": prefect_server.url}
    said = project.folder / "careful.out"
    with project.process("careful", command, **env) as first:
        await waits_for(said, "working", first)
        first.send_signal(by)
        await wait_until(lambda: first.poll() is not None, WITHIN, every=0.1, shows=said.read_text)
        assert first.returncode == code, said.read_text()
    lines = said.read_text().splitlines()
    assert (lines.count("working"), lines.count("tidied up"), lines[-1]) == (1, 0, last)
    (project.folder / "done").write_text("done")
    with project.process("careful", command, **env) as second:
        await wait_until(lambda: second.poll() is not None, WITHIN, every=0.1, shows=said.read_text)
    lines = said.read_text().splitlines()
    assert (lines.count("working"), lines.count("tidied up")) == (2, 1)
    assert "result: worked" in lines


async def waits_for(said: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    def has_come() -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}: {said.read_text()}"
        return text in said.read_text()

    await wait_until(has_come, WITHIN, every=0.1, shows=said.read_text)
