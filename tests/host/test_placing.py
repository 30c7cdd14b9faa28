"""What runs beside others in the host, and what has a process of its own because only so it means what it says."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError

from standby.errors import CodeNotLoaded
from standby.host import placing
from standby.states import RunState
from tests.host.conftest import AGENTS, Inn, Run
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:unclosed (<socket\.|transport <_SelectorSocketTransport):ResourceWarning"),
    pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True),
]

CLONE = {"prefect.deployments.steps.git_clone": {"repository": "https://example.org/agents.git"}}
SET_FOLDER = "prefect.deployments.steps.set_working_directory"


async def test_what_one_process_can_give_only_once_has_a_process_of_its_own(inn: Inn, tmp_path: Path) -> None:
    """Stock job variables keep their meaning."""
    shared: list[dict[str, Any]] = [
        {},
        {"pull_steps": [{SET_FOLDER: {"directory": str(AGENTS)}}]},
        {"job_variables": {"working_dir": str(AGENTS), "env": {}}},
    ]
    apart: list[tuple[dict[str, Any], str]] = [
        ({"job_variables": {"env": {"REGION": "north"}}}, "environment variables that this host does not have: REGION"),
        ({"job_variables": {"working_dir": str(tmp_path)}}, "its working folder is"),
        ({"job_variables": {"command": "nice python -m prefect.engine"}}, "it has a command"),
        ({"job_variables": {"isolation": "process"}}, "its deployment says so"),
        ({"pull_steps": [CLONE]}, "its code is fetched from elsewhere"),
        ({"path": str(tmp_path)}, "its code is in"),
        ({"entrypoint": "guests.py:plain"}, "it is no agent"),
        ({"concurrency_limit": 1}, "its concurrency is limited"),
    ]
    for options in shared:
        assert (await placement(inn, **options)).flow is not None, options
    for options, why in apart:
        found = await placement(inn, **options)
        assert found.flow is None, options
        assert why in found.why


async def test_code_is_loaded_once_for_each_version_of_a_deployment(inn: Inn) -> None:
    first = await placement(inn)
    assert (await placement(inn)).flow is first.flow
    inn.host.placing.forget_deployments()
    await inn.client._client.patch(f"/deployments/{await inn.deploy('visitor')}", json={"version": "2"})
    second = await placement(inn)
    assert second.flow is not None
    assert second.flow is not first.flow
    assert second.flow.fn.__module__ == "guests"


async def test_agents_of_one_file_that_changed_share_the_modules_they_import(inn: Inn) -> None:
    """Else the second to be loaded anew takes from the first the function that its condition is polled by."""
    names = ("first", "second")
    entrypoints = {name: f"askers.py:{name}_asker" for name in names}
    before = {name: await placement(inn, entrypoint=entrypoints[name]) for name in names}
    waiting = {name: await start(inn, entrypoints[name], f"before {name}") for name in names}
    for run in waiting.values():
        await run.is_warm()
    assert inn.host.warmth.make_room(1) == 1  # the first is cold, the second goes on with the code it has
    inn.host.placing.forget_deployments()
    for name in names:
        deployment = await inn.deploy(f"{name}_asker", entrypoint=entrypoints[name])
        await inn.client._client.patch(f"/deployments/{deployment}", json={"version": "2"})
    after = {name: await placement(inn, entrypoint=entrypoints[name]) for name in names}
    first, second = (sources_of(after[name]) for name in names)
    assert first is second
    assert first is not sources_of(before["first"])
    waiting |= {f"new {name}": await start(inn, entrypoints[name], f"after {name}") for name in names}
    for name, run in waiting.items():
        await run.is_in(RunState.PARKED)
        topic = name.removeprefix("new ")
        await inn.signal(topic, f"{'after' if 'new' in name else 'before'} {topic}", 7)
        assert await run.result() == 7


def sources_of(found: Any) -> Any:
    return inspect.unwrap(found.flow.fn).__globals__["sources"]


async def start(inn: Inn, entrypoint: str, order: str) -> Run:
    deployment = await inn.deploy(entrypoint.partition(":")[2], entrypoint=entrypoint)
    made = await inn.client.create_flow_run_from_deployment(deployment, parameters={"order": order})
    return Run(inn, str(made.id))


async def test_a_deployment_that_insists_on_sharing_and_cannot_is_refused_with_the_reason(inn: Inn) -> None:
    deployment = await inn.deploy("visitor", job_variables={"isolation": "shared", "env": {"REGION": "north"}})
    flow_run = await inn.client.create_flow_run_from_deployment(deployment)
    run = Run(inn, str(flow_run.id))
    state = await run.is_shown(StateType.FAILED)
    name = (await inn.client.read_deployment(deployment)).name
    assert f"Deployment 'visitor/{name}' says isolation: shared" in (state.message or "")
    assert "REGION" in (state.message or "")


async def placement(inn: Inn, **options: Any) -> Any:
    flow_run = await inn.client.create_flow_run_from_deployment(
        await inn.deploy(re.sub(".*:", "", options.get("entrypoint", "visitor")), **options), state=_later()
    )
    return await inn.host.placing.of(flow_run)


def _later() -> Any:
    from datetime import timedelta

    from prefect.states import Scheduled

    from standby import clock

    return Scheduled(scheduled_time=clock.utcnow() + timedelta(days=1))


async def test_an_unknown_isolation_is_refused(inn: Inn) -> None:
    """By Prefect already, which has the host's own variables in the work pool."""
    with pytest.raises(PrefectHTTPStatusError, match="none"):
        await placement(inn, job_variables={"isolation": "none"})


AGENT = "from standby import agent\n\n@agent\nasync def {name}() -> None:\n    ...\n"


async def test_a_load_that_fails_leaves_the_code_of_all_others_alone(
    inn: Inn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is tried. What only it imports is imported anew with each try, for it may be mended there."""
    caplog.set_level(logging.INFO, "standby.host")
    package = tmp_path / "of_all"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "state.py").write_text("CLIENTS = []\n")
    (package / "of_one.py").write_text("")
    (tmp_path / "well.py").write_text("from of_all import state\n" + AGENT.format(name="well"))
    unwell = "from of_all import state, of_one\nWORD = of_one.WORD\n"
    (tmp_path / "unwell.py").write_text(unwell + AGENT.format(name="unwell"))
    monkeypatch.setattr(inn.host.placing, "_folder", tmp_path)
    monkeypatch.setattr(placing, "FAILED_SECONDS", 0.0)

    async def of(name: str) -> Any:
        return await placement(inn, entrypoint=f"{name}.py:{name}", path=str(tmp_path))

    well = await of("well")
    (package / "state.py").write_text("CLIENTS = None  # of a version that is not deployed yet\n")
    for _ in range(2):
        with pytest.raises(CodeNotLoaded, match="WORD"):
            await of("unwell")
        assert (await of("well")).flow is well.flow
        assert sys.modules["of_all.state"].CLIENTS == []
        assert not {"unwell", "of_all.of_one"} & sys.modules.keys()
    (package / "of_one.py").write_text("WORD = 'mended'\n")
    mended = await of("unwell")
    assert inspect.unwrap(mended.flow.fn).__globals__["WORD"] == "mended"
    assert inspect.unwrap(mended.flow.fn).__globals__["state"] is sys.modules["of_all.state"]
    assert (await of("well")).flow is well.flow
    assert not [said for said in caplog.messages if "has changed" in said]


@pytest.mark.parametrize(
    ("entrypoint", "reason", "where"),
    [
        ("nowhere.py:visitor", "there is no file", None),
        ("guests.py:nobody", "'nobody' not found", None),
        ("broken.py:visitor", "No module named 'nobody_has_this_module'", "broken.py"),
    ],
)
async def test_what_cannot_be_loaded_is_said_in_one_sentence(
    inn: Inn, caplog: pytest.LogCaptureFixture, entrypoint: str, reason: str, where: str | None
) -> None:
    """In the log and in the run's state: which deployment, why, and what to do. It is tried again, for the code may be
    mended, and runs that wait for that are not failed. What the user's own code raised has its traceback."""
    deployment = await inn.deploy("visitor", entrypoint=entrypoint)
    name = (await inn.client.read_deployment(deployment)).name
    made = await inn.client.create_flow_run_from_deployment(deployment)
    state = await Run(inn, str(made.id)).is_shown(StateType.CRASHED)
    for said in (f"Deployment 'visitor/{name}' cannot be loaded", entrypoint, reason, "is tried again"):
        assert said in (state.message or "")
    [line] = [record for record in caplog.records if record.name == "standby.host" and name in record.getMessage()][:1]
    assert state.message in line.getMessage()
    trace = line.exc_info[2] if line.exc_info else None
    assert (Path(trace.tb_frame.f_code.co_filename).name if trace else None) == where


async def test_what_cannot_be_loaded_is_logged_once_for_each_try(
    inn: Inn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also for many runs, and with its traceback once. On a run's page in Prefect it is, too."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(placing, "FAILED_SECONDS", 3600.0)
    deployment = await inn.deploy("visitor", entrypoint="broken.py:visitor")
    name = (await inn.client.read_deployment(deployment)).name

    async def crashes() -> None:
        made = [await inn.client.create_flow_run_from_deployment(deployment) for _ in range(2)]
        for one in made:
            await Run(inn, str(one.id)).is_shown(StateType.CRASHED)

    def said() -> list[bool]:
        """With its traceback, or without."""
        return [
            bool(record.exc_info)
            for record in caplog.records
            if f"{name}' cannot be loaded" in record.getMessage() and not getattr(record, "is_said", False)
        ]

    await crashes()
    assert said() == [True]
    inn.host.placing._code.clear()  # as when it is tried again
    await crashes()
    assert said() == [True, False]


async def test_a_run_whose_deployment_was_deleted_is_refused_in_one_sentence(
    inn: Inn, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = await inn.deploy("visitor")
    run = await inn.start("visitor")
    await run.is_warm()
    assert inn.host.warmth.make_room(1) == 1
    await wait_until(lambda: run.id not in inn.host.guests)
    await inn.client.delete_deployment(deployment)
    inn.host.placing.forget_deployments()
    await run.signal("round-0", 1)
    state = await run.is_shown(StateType.FAILED)
    assert f"The deployment {deployment} of this run was deleted in Prefect" in (state.message or "")
    assert "start another run" in (state.message or "")
    assert not [record for record in caplog.records if record.name == "standby.host" and record.exc_info]


async def test_a_run_whose_deployment_is_deleted_while_it_is_warm_goes_on(inn: Inn) -> None:
    """As one at work does: it has its code, and needs no deployment to go on."""
    deployment = await inn.deploy("visitor")
    run = await inn.start("visitor")
    await run.is_warm()
    await inn.client.delete_deployment(deployment)
    inn.host.placing.forget_deployments()
    await run.signal("round-0", 1)
    assert await run.result() == 1


async def test_parameters_that_the_agent_does_not_take_are_refused(inn: Inn, caplog: pytest.LogCaptureFixture) -> None:
    """As when the code has changed since: trying once more would not help."""
    deployment = await inn.deploy("visitor", enforce_parameter_schema=False)
    made = await inn.client.create_flow_run_from_deployment(deployment, parameters={"customer": "c"})
    run = Run(inn, str(made.id))
    state = await run.is_shown(StateType.FAILED, StateType.CRASHED)
    assert state.type is StateType.FAILED
    name = (await inn.client.read_deployment(deployment)).name
    for said in ("customer", f"deployment 'visitor/{name}'", "retry it"):
        assert said in (state.message or "")
    assert state.message in caplog.messages
    assert not [record for record in caplog.records if record.name == "standby.host" and record.exc_info]
