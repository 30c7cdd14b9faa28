"""The sweep: one agent run for each invoice in a folder, however often and however many at once it runs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun

from standby.states import RunState
from tests.invoices.documents import CREDIT_NOTE, edited
from tests.system.invoices import write_invoice
from tests.system.runs import Runs

pytestmark = pytest.mark.xdist_group("agents")  # one `standby up` for all of them

SWEEP = "invoice-sweep/inbox"


async def test_each_invoice_gets_one_run_however_often_the_folder_is_swept(runs: Runs, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    good = arrived(write_invoice(inbox, "NOTE-1", CREDIT_NOTE))
    cut = inbox / "cut.xml"
    cut.write_bytes(edited(CREDIT_NOTE)[:3000])
    arrived(cut)
    half = being_written(write_invoice(inbox, "NOTE-2", CREDIT_NOTE))

    at_once = [await runs.start(SWEEP, folder=inbox) for _ in range(2)]
    first, second = [await swept(runs, sweep) for sweep in at_once]
    assert sorted(first) == sorted(second)
    by_path = {Path(run.parameters["path"]): run for run in await started_from(runs, inbox)}
    assert {str(run.id) for run in by_path.values()} == set(first)
    assert by_path.keys() == {good, cut}
    assert (await runs.receipt(str(by_path[good].id)))["outcome"] == "credited"
    assert (await runs.error(str(by_path[cut].id))).startswith("MalformedXml: cut.xml: document: ")

    # Written to its end; the bad one mended, and a copy of the good one under another name.
    arrived(half)
    cut.write_bytes(write_invoice(tmp_path, "NOTE-3", CREDIT_NOTE).read_bytes())
    arrived(cut)
    (inbox / "copy.xml").write_bytes(good.read_bytes())
    arrived(inbox / "copy.xml")
    third = await swept(runs, await runs.start(SWEEP, folder=inbox))
    runs_now = await started_from(runs, inbox)
    assert len(third) == 3
    assert sorted(Path(run.parameters["path"]) for run in runs_now) == sorted([good, cut, cut, half])
    assert set(third) == {str(run.id) for run in runs_now} - {str(by_path[cut].id)}
    for run_id in third:
        assert (await runs.receipt(run_id))["outcome"] == "credited"


async def test_the_sweep_is_on_a_schedule(runs: Runs) -> None:
    [schedule] = (await runs.client.read_deployment_by_name(SWEEP)).schedules
    assert schedule.active


async def swept(runs: Runs, sweep: str) -> list[str]:
    """The runs that a sweep has started or found."""
    row = await runs.ends(sweep)
    assert row.state == RunState.COMPLETED, await runs.shown(sweep)
    found: list[str] = json.loads(row.result)
    return found


async def started_from(runs: Runs, inbox: Path) -> list[FlowRun]:
    """Every run of the invoice agent on a file of the inbox, as Prefect knows them."""
    named = DeploymentFilter(name=DeploymentFilterName(any_=["invoices"]))
    found = await runs.client.read_flow_runs(deployment_filter=named)
    return [run for run in found if Path(run.parameters["path"]).parent == inbox]


def arrived(path: Path) -> Path:
    """Nobody has written to it for a while."""
    os.utime(path, (time.time() - 10,) * 2)
    return path


def being_written(path: Path) -> Path:
    """Somebody writes to it, now and for the minutes of this test."""
    os.utime(path, (time.time() + 600,) * 2)
    return path
