"""On a Prefect server that is already there, with stock Prefect and nothing of `standby up`: bootstrap, deploy, run."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx

from standby.settings import AGENT_TAG
from tests.bank.process import running_bank
from tests.invoices.documents import NO_ORDER, SAMPLES
from tests.support.server import PrefectServer
from tests.support.waiting import wait_until
from tests.system.project import PROGRAMS, Project
from tests.system.runs import Runs

PREFECT = [sys.executable, "-m", "prefect"]


async def test_the_agents_are_deployed_and_run_by_a_stock_worker(
    project: Project, own_prefect_server: PrefectServer, tmp_path: Path
) -> None:
    server = own_prefect_server
    async with running_bank(tmp_path, settle_after=0.2) as bank:
        project.api_url = server.url
        project.env |= {"PREFECT_API_URL": server.url, "PREFECT_HOME": str(tmp_path / "home")}
        # Only who deploys knows where ledger and bank are; everybody else is told by the blocks on the server.
        told = {
            "STANDBY_LEDGER_URL": f"sqlite:///{tmp_path / 'shared' / 'ledger.db'}",
            "PAYMENT_PROVIDER_URL": bank.url,
        }
        project.ledger_url = told["STANDBY_LEDGER_URL"]
        said = await project.python("-m", "deployments.bootstrap", **told)
        assert said.code == 0, said
        said = await project.module("deployments.bootstrap", **told)  # once more
        assert said.code == 0, said
        assert said.out.splitlines()[0] == "Work pool agents is there."
        said = await project.module("prefect", "--no-prompt", "deploy", "--all")
        assert said.code == 0, said
        elsewhere = {"STANDBY_HOME": str(project.home)}
        with (
            project.process(
                "worker", [*PREFECT, "worker", "start", "--pool", "agents"], PREFECT_WORKER_QUERY_SECONDS="1"
            ),
            project.process("keeper", [str(PROGRAMS / "standby"), "keeper"], **elsewhere),
        ):
            async with Runs.of(project) as runs:
                agents = {"invoices", "inbox", "research", "weekly-brief"}
                deployments = {each.name: each for each in await runs.client.read_deployments()}
                assert {name for name, each in deployments.items() if AGENT_TAG in each.tags} == agents
                assert deployments.keys() == {*agents, "keeper"}

                ordered = await project.module(
                    "prefect", "deployment", "run", "invoice-agent/invoices", "--param", f"path={SAMPLES / NO_ORDER}"
                )
                assert ordered.code == 0, ordered

                async def parked() -> list[dict[str, str]]:
                    listed = (await project.standby("ps", "--json")).json
                    return [run for run in listed if run["state"] == "parked"]

                [asked] = await wait_until(parked, 180, every=0.5, shows=project.logs)
                run = asked["run_id"]
                answer = {"run_input": {"approved": True, "account": "6000", "comment": "by hand"}}
                async with httpx.AsyncClient(trust_env=False, timeout=60) as client:

                    async def accepted() -> bool:
                        # A Prefect server on SQLite answers 503 while another writes; the sender tries again.
                        answered = await client.post(f"{server.url}/flow_runs/{run}/resume", json=answer)
                        assert answered.status_code in (200, 201, 503), answered.text
                        return bool(answered.json().get("status") == "ACCEPT")

                    await wait_until(accepted, 30, every=0.5, shows=project.logs)
                receipt = await runs.receipt(run)
                assert (receipt["outcome"], receipt["account"], receipt["comment"]) == ("paid", "6000", "by hand")
                assert (await bank.counts())["requests_by_key"] == {f"{run}/pay": 1}
        assert "Keeping watch" in (project.folder / "keeper.out").read_text()
        assert (await project.standby("doctor")).out.strip() == "All is well."
