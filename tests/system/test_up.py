"""`standby up`: one command, to its receipts; Ctrl-C and the next one; and what it says when it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from deployments.sandbox_bank.store import Store
from standby.tables import EACH
from tests.bank.process import ROOT
from tests.invoices.documents import CONTRADICTORY, OVER_LIMIT, PRICE_DIFFERS, SAMPLES
from tests.support.forks import Forks
from tests.support.server import PrefectServer
from tests.support.waiting import wait_until
from tests.system.project import Project, Result
from tests.system.runs import Runs

DEMO_WITHIN = 300.0
"""Seconds for the demo's six invoices; they take forty on two idle cores."""

SHIPPED = (ROOT / "pyproject.toml").read_text()

TWO_INVOICES = """\
import asyncio
from pathlib import Path

from deployments import demo

demo.SAMPLES = Path("samples").absolute()
asyncio.run(demo.main())
"""


async def test_the_demo_that_answers_by_itself_ends_with_the_receipts_of_all_samples(project: Project) -> None:
    said = await project.up("--demo", "--answer", "approve", plain=True).ended(DEMO_WITHIN)
    assert (said.code, said.err) == (0, ""), project.logs()
    receipts = said.out.partition("Receipts")[2]
    assert (receipts.count(" completed "), receipts.count(" failed ")) == (5, 1), receipts
    for summary in ("Paid 850.61 EUR", "Paid 7380.00 EUR", "Paid 913.92 EUR", "Paid 340.20 EUR", "Credited 55.93 EUR"):
        assert summary in receipts
    assert f"{CONTRADICTORY}: failed: ArithmeticMismatch: {CONTRADICTORY}: cac:LegalMonetaryTotal/cbc:PayableAmount: " \
        in said.out  # fmt: skip
    by_two = [line for line in said.out.splitlines() if "answered approve to: Pay 7380.00 EUR" in line]
    assert [line.rpartition(" (")[2] for line in by_two] == ["standby up --answer 1)", "standby up --answer 2)"]
    await project.gone()
    async with project.ledger() as ledger:
        runs = await ledger.runs.all(ended=True)
        assert sorted(run.name for run in runs) == sorted(path.name for path in SAMPLES.glob("*.xml"))
    paid = payments(project)
    assert paid["payments"] == 4
    assert set(paid["requests_by_key"].values()) == {1}, paid
    assert len(list((project.home / "receipts").glob("*.json"))) == 5


async def test_ctrl_c_keeps_what_waits_and_the_next_up_carries_on_with_it(
    server_and_new_database: tuple[PrefectServer, Path], forks: Forks, tmp_path: Path
) -> None:
    with closing(
        Project(tmp_path / "project", forks, pyproject=edited('demo = "deployments.demo"', 'demo = "two"'))
    ) as project:
        project.begin_with(server_and_new_database[1])
        (project.folder / "two.py").write_text(TWO_INVOICES)
        (project.folder / "samples").mkdir()
        for name in (OVER_LIMIT, PRICE_DIFFERS):
            shutil.copy(SAMPLES / name, project.folder / "samples")
        up = project.up("--demo")
        # A look may also catch a run that has asked and not parked yet, which is one line more.
        await wait_until(lambda: up.output.count(": parked, waits for: ") == 2, DEMO_WITHIN, every=0.1, shows=up.shown)
        [by_two] = {line for line in up.output.splitlines() if line.startswith(f"{OVER_LIMIT}: parked, ")}
        assert by_two.endswith(" (2 people have to approve)")
        assert f" --as NAME   {EACH}\n" in up.output

        second = await project.standby("up", "--port", "4999")
        assert f"already up on .standby (process {up.pid}, {project.api_url})" in second.sentence
        about = json.loads((project.home / "up.json").read_text())
        assert about["gateway_url"] == f"http://127.0.0.1:{project.gateway_port}"
        assert [run["ui"] for run in await waiting(project)] == [
            f"{project.api_url.removesuffix('/api')}/runs/flow-run/{run['run_id']}" for run in await waiting(project)
        ]

        said = await up.interrupted()
        assert said.code == 130
        again = f"standby up --demo --port {project.port}` carries on with it."
        assert "What waits is kept in .standby; `" in said.out
        assert again in said.out
        assert said.err == ""
        await project.gone()

        # With nothing up, what waits is still listed, and an answer is taken and kept.
        assert {run["name"]: run["state"] for run in await waiting(project)} == {
            OVER_LIMIT: "parked",
            PRICE_DIFFERS: "parked",
        }
        taken = await project.standby("approve", PRICE_DIFFERS, "--json")
        assert (taken.code, taken.json["accepted"], taken.json["woken"]) == (0, True, False)

        # The bank is where it was: the block says so, the variable is for the first start.
        del project.env["PAYMENT_PROVIDER_URL"]
        said = await project.up("--demo", "--answer", "reject").ended(DEMO_WITHIN)
        assert (said.code, said.err) == (0, ""), project.logs()
        receipts = said.out.partition("Receipts")[2]
        assert "Declined 2026-00731" in receipts
        assert "Paid 913.92 EUR" in receipts
        assert payments(project)["payments"] == 1
        await project.gone()


async def test_ctrl_c_while_it_starts_leaves_nothing_behind(
    project: Project, server_and_new_database: tuple[PrefectServer, Path]
) -> None:
    project.begin_with(server_and_new_database[1])
    up = project.up()
    await up.says("Starting the Prefect server")
    said = await up.interrupted()
    assert (said.code, said.err) == (130, "")
    await project.gone()


def edited(old: str, new: str) -> str:
    """The shipped pyproject.toml with one place changed."""
    assert old in SHIPPED
    return SHIPPED.replace(old, new)


PROCESSES = "[tool.standby.processes]\n"
BAD_PROJECTS: dict[str, tuple[str, str]] = {
    "a program that is not there": (
        edited(PROCESSES, f'{PROCESSES}mailer = "no-such-mailer --fast"\n'),
        "mailer cannot be started: there is no program 'no-such-mailer'.",
    ),
    "a program that stops at once": (
        edited(PROCESSES, f"{PROCESSES}mailer = \"python -c 'import sys; sys.exit(chr(110) + chr(111))'\"\n"),
        "The mailer stopped at once. It said: no",
    ),
    "a command that names no program": (
        edited(PROCESSES, f'{PROCESSES}mailer = ""\n'),
        "processes.mailer: it names no",
    ),
    "a misspelt key": (edited('demo = "', 'dmeo = "'), "dmeo: Extra inputs are not permitted."),
    "a value of the wrong type": (edited('pool = "agents"', "pool = 3"), "pool: Input should be a valid string."),
    "a table that is none": ("[tool]\nstandby = 3\n", "[tool.standby]"),
    "what is not TOML": ("[tool.standby", "is not valid TOML"),
    "bytes that are no text": ("\udcff", "is not valid TOML"),
    "no demo": ("[tool.standby]\n", "This project has no demo: name a module as `demo` in [tool.standby]"),
    "a bootstrap that fails": (
        edited('bootstrap = "deployments.bootstrap"', 'bootstrap = "no_such_module"'),
        "no_such_module --deploy failed. It said:",
    ),
}


@pytest.mark.parametrize("what", BAD_PROJECTS)
async def test_what_is_wrong_with_the_project_is_said_in_a_sentence(
    server_and_new_database: tuple[PrefectServer, Path], forks: Forks, tmp_path: Path, what: str
) -> None:
    text, sentence = BAD_PROJECTS[what]
    with closing(Project(tmp_path / "project", forks, pyproject="")) as project:
        project.begin_with(server_and_new_database[1])
        (project.folder / "pyproject.toml").write_bytes(text.encode(errors="surrogateescape"))
        said = await project.up("--demo").ended()
        assert sentence in said.sentence
        await project.gone()


OWN_DEPLOYMENT = """
deployments:
  - name: default
    entrypoint: greeter.py:greeter
    tags: [standby]
    work_pool: {name: agents}
"""

OWN_AGENT = """
from standby import Approval, agent, wait_for


@agent
async def greeter() -> bool:
    return (await wait_for(Approval("Greet them?"))).approved
"""


async def test_a_project_of_its_own_needs_no_more_than_its_prefect_yaml(
    server_and_new_database: tuple[PrefectServer, Path], forks: Forks, tmp_path: Path
) -> None:
    with closing(Project(tmp_path / "project", forks, pyproject="")) as project:
        project.begin_with(server_and_new_database[1])
        (project.folder / "prefect.yaml").unlink()
        (project.folder / "prefect.yaml").write_text(OWN_DEPLOYMENT)
        (project.folder / "greeter.py").write_text(OWN_AGENT)
        up = await project.up().ready()
        assert f", gateway http://127.0.0.1:{project.gateway_port}, ledger " in up.output
        async with Runs.of(project) as runs:
            for slug in ("agent-scope", "webhook-source", "notification-channels", "checkpoint-store"):
                assert (await runs.client.read_block_type_by_slug(slug)).slug == slug, "it can be made in the UI"
            deployment = await runs.client.read_deployment_by_name("greeter/default")
            await runs.client.create_flow_run_from_deployment(deployment.id)

        async def asked() -> bool:
            return [run["state"] for run in (await project.standby("ps", "--json")).json] == ["parked"]

        await wait_until(asked, 60, every=0.5, shows=up.shown)
        await up.interrupted()
        await project.gone()


async def refused_on_a_busy_port(project: Project) -> Result:
    project.take_port()
    return await project.up().ended()


async def refused_on_a_busy_port_of_the_bank(project: Project) -> Result:
    project.take_bank_port()
    return await project.up().ended()


async def refused_on_a_busy_port_of_the_gateway(project: Project) -> Result:
    project.take_gateway_port()
    return await project.up().ended()


async def refused_where_the_data_folder_is_a_file(project: Project) -> Result:
    project.home.touch()
    return await project.up().ended()


REFUSALS: list[tuple[Callable[[Project], Any], str]] = [
    (refused_on_a_busy_port, "Port {port} is taken by another program. Choose another: standby up --port"),
    (refused_on_a_busy_port_of_the_bank, "The bank stopped at once. It said: Port {bank_port} is in use;"),
    (
        refused_on_a_busy_port_of_the_gateway,
        "Port {gateway_port} is taken by another program. Choose another: standby up --gateway-port",
    ),
    (refused_where_the_data_folder_is_a_file, "File exists: '{home}'"),
]


@pytest.mark.parametrize(("refused", "sentence"), REFUSALS)
async def test_what_is_in_the_way_is_said_in_a_sentence(
    project: Project, refused: Callable[[Project], Any], sentence: str
) -> None:
    said = await refused(project)
    assert (
        sentence.format(
            port=project.port, bank_port=project.bank_port, gateway_port=project.gateway_port, home=project.home
        )
        in said.sentence
    )
    assert "is started again" not in said.out
    await project.gone()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--demo", "--answer", "maybe"], "--answer is approve or reject, not 'maybe'."),
        (["--answer", "approve"], "--answer goes with --demo"),
        (["--port", "0"], "Invalid value for '--port'"),
        (["--port", "70000"], "Invalid value for '--port'"),
    ],
)
async def test_arguments_that_make_no_sense_are_refused(project: Project, arguments: list[str], sentence: str) -> None:
    said = await project.standby("up", *arguments)
    assert sentence in said.sentence
    assert said.code == 2
    assert not project.home.exists()


def payments(project: Project) -> dict[str, Any]:
    """What the bank remembers; it has stopped with the rest."""
    with closing(Store(project.home / "bank.db", settle_after=None)) as store:
        return store.counts().model_dump()


async def waiting(project: Project) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await project.standby("ps", "--json")).json
    return sorted(listed, key=lambda run: run["name"])
