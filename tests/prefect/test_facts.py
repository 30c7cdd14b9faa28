"""What Standby leans on in Prefect, one fact a test: an upgrade that changes one must fail here, by name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import Task, flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectAlreadyExists, Pause
from prefect.filesystems import WritableFileSystem
from prefect.flow_engine import run_flow_async
from prefect.input.run_input import keyset_from_base_key
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Paused, Running, Scheduled, Suspended
from pydantic import ValidationError

from standby.checkpoints import PLAIN_JSON, JournalKey, ResultKey, result_key
from tests.support.server import PrefectServer

# Prefect's engine leaves sockets of its event clients to the garbage collector.
in_process = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}


@pytest.fixture
async def client(prefect_server: PrefectServer) -> AsyncIterator[PrefectClient]:
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        async with get_client() as opened:
            yield opened


async def deployed_run(client: PrefectClient, *states: State[Any], **options: Any) -> FlowRun:
    """A run of a deployment, taken through the states, each of which must be accepted."""
    with suppress(ObjectAlreadyExists):
        await client.create_work_pool(WorkPoolCreate(name="facts", type="process"))
    flow_id = await client.create_flow_from_name("facts")
    deployment = await client.create_deployment(flow_id, "facts", work_pool_name="facts", entrypoint="facts.py:facts")
    run = await client.create_flow_run_from_deployment(deployment, **options)
    for state in states:
        assert (await client.set_flow_run_state(run.id, state)).status is SetStateStatus.ACCEPT
    return await client.read_flow_run(run.id)


def suspended(key: str, with_form: bool = False) -> State[Any]:
    state: State[Any] = Suspended(pause_key=key)
    if with_form:
        state.state_details.run_input_keyset = {str(k): v for k, v in keyset_from_base_key(f"suspended-{key}").items()}
    return state


async def resume(client: PrefectClient, run_id: UUID, **run_input: Any) -> tuple[int, str]:
    response = await client.request("POST", f"/flow_runs/{run_id}/resume", json={"run_input": run_input or None})
    return response.status_code, response.json()["status"]


@pytest.mark.parametrize("before", [Running(), Crashed()])
async def test_a_run_whose_process_died_can_be_scheduled_again_unforced(
    client: PrefectClient, before: State[Any]
) -> None:
    """The rescue of dead attempts."""
    run = await deployed_run(client, Running(), before)
    assert (await client.set_flow_run_state(run.id, Scheduled())).status is SetStateStatus.ACCEPT


async def test_a_suspended_run_can_be_scheduled_without_its_form(client: PrefectClient) -> None:
    """The wake, whichever door the answer came through."""
    run = await deployed_run(client, Running(), suspended("a", with_form=True))
    assert (await client.set_flow_run_state(run.id, Scheduled(name="Resuming"))).status is SetStateStatus.ACCEPT


async def test_a_completed_run_with_a_persisted_result_is_not_scheduled_again(client: PrefectClient) -> None:
    """A stray wake does not run a finished agent again."""
    run = await deployed_run(client, Running())
    body = {"state": {"type": "COMPLETED", "name": "Completed", "data": {"storage_key": "k", "serializer": {
        "type": "json"}, "prefect_version": "3", "expiration": None, "storage_block_id": None}}}  # fmt: skip
    assert (await client.request("POST", f"/flow_runs/{run.id}/set_state", json=body)).json()["status"] == "ACCEPT"
    assert (await client.set_flow_run_state(run.id, Scheduled())).status is SetStateStatus.REJECT


async def test_a_pause_key_fires_once(client: PrefectClient) -> None:
    """Why every park has a key of its own."""
    run = await deployed_run(client, Running(), suspended("once"), Scheduled(), Running())
    assert (await client.set_flow_run_state(run.id, suspended("once"))).status is SetStateStatus.REJECT
    assert (await client.set_flow_run_state(run.id, suspended("twice"))).status is SetStateStatus.ACCEPT


async def test_a_run_without_a_deployment_cannot_be_suspended(client: PrefectClient) -> None:
    """Why such runs pause in their process."""

    @flow
    async def facts() -> None:
        return

    run = await client.create_flow_run(facts, state=Running())
    assert (await client.set_flow_run_state(run.id, suspended("a"))).status is SetStateStatus.ABORT
    assert (await client.set_flow_run_state(run.id, Paused(timeout_seconds=9, pause_key="b"))).status is (
        SetStateStatus.ACCEPT
    )


async def test_resume_tells_in_its_body_and_not_by_its_code_whether_it_took_the_answer(client: PrefectClient) -> None:
    run = await deployed_run(client, Running())
    assert await resume(client, run.id) == (200, "ABORT")
    assert (await client.set_flow_run_state(run.id, suspended("form", with_form=True))).status is SetStateStatus.ACCEPT
    assert await resume(client, run.id, yes=True) == (200, "REJECT"), "the schema is not saved yet"
    await client.create_flow_run_input(run.id, "suspended-form-schema", json.dumps(SCHEMA))
    assert await resume(client, run.id, yes="perhaps") == (200, "REJECT")
    assert await resume(client, run.id, yes=True) == (201, "ACCEPT")
    [saved] = await client.filter_flow_run_input(
        run.id, key_prefix="suspended-form-response", limit=9, exclude_keys=set()
    )
    assert saved.decoded_value == {"yes": True}


async def test_what_is_resumed_with_is_rendered_before_it_is_stored(client: PrefectClient) -> None:
    """Why what comes through Prefect is not trusted."""
    run = await deployed_run(client, Running(), suspended("form", with_form=True))
    schema = {"type": "object", "properties": {"text": {}}}
    await client.create_flow_run_input(run.id, "suspended-form-schema", json.dumps(schema))
    assert (await resume(client, run.id, text={"__prefect_kind": "json", "value": "[1]"}))[1] == "ACCEPT"
    [saved] = await client.filter_flow_run_input(
        run.id, key_prefix="suspended-form-response", limit=9, exclude_keys=set()
    )
    assert saved.decoded_value == {"text": [1]}


async def test_keys_of_run_inputs_have_only_small_letters_digits_and_dashes(client: PrefectClient) -> None:
    run = await deployed_run(client)
    with pytest.raises(ValidationError):
        await client.create_flow_run_input(run.id, "suspended-a.1-schema", "{}")


async def test_an_idempotency_key_gives_the_same_run(client: PrefectClient) -> None:
    """How the sweep starts one agent for each invoice."""
    key = uuid4().hex
    first = await deployed_run(client, idempotency_key=key)
    assert (await deployed_run(client, idempotency_key=key)).id == first.id


async def test_the_server_takes_nulls_where_a_body_has_a_default(client: PrefectClient) -> None:
    """The client sends them (`prefect deploy --all` does); FastAPI from 0.151 on refuses them."""
    await deployed_run(client)
    assert await client.read_workers_for_work_pool("facts") == []


class Memory(WritableFileSystem):
    """A store that remembers which paths Prefect read and wrote."""

    _block_type_slug = "facts-memory"

    def _resolve_path(self, path: str) -> None:
        return

    async def read_path(self, path: str) -> bytes:
        ASKED.append(("read", path))
        raise ValueError("nothing there")

    async def write_path(self, path: str, content: bytes) -> None:
        ASKED.append(("write", path))


ASKED: list[tuple[str, str]] = []


@in_process
async def test_a_task_persists_under_our_key_in_the_store_that_its_flow_was_given_while_running(
    client: PrefectClient,
) -> None:
    """How checkpoints become the persisted results of tasks."""
    ASKED.clear()

    async def work() -> int:
        return 1

    @flow
    async def facts() -> int:
        context = FlowRunContext.get()
        assert context is not None
        context.result_store.result_storage = Memory()
        return await Task(work, persist_result=True, cache_policy=JournalKey(), result_serializer=PLAIN_JSON)()

    result_key.set(ResultKey("run", "work"))
    assert await facts() == 1
    assert ASKED == [("read", "run/work"), ("write", "run/work")]
    result_key.set(None)


@in_process
async def test_a_pause_that_the_flow_raises_leaves_the_state_as_it_is(client: PrefectClient) -> None:
    """How an attempt ends when its run parks."""

    @flow
    async def facts() -> None:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        parked = suspended("here")
        assert (await client.set_flow_run_state(context.flow_run.id, parked)).status is SetStateStatus.ACCEPT
        raise Pause(state=parked)

    run = await deployed_run(client)
    with pytest.raises(Pause):
        await run_flow_async(facts, flow_run=run)
    state = (await client.read_flow_run(run.id)).state
    assert state is not None
    assert (state.type, state.name) == (StateType.PAUSED, "Suspended")
