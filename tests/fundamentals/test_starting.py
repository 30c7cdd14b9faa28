"""A signal may start the run it is for: checked at the door, made in Prefect once."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled

from standby import doors, settings, starts
from standby.errors import StartRefused
from standby.keeper import Keeper
from standby.ledger import Ledger
from standby.ledger.opening import WaitRow
from standby.ledger.signals import Delivery
from standby.ledger.starts import NewStart
from standby.starts import ToStart
from standby.states import Disposition, WaitKind
from tests.fundamentals.conftest import Desk
from tests.ledger.acts import parked

SCHEMA = {
    "type": "object",
    "properties": {"order": {"type": "object"}, "urgent": {"type": "boolean", "default": False}},
    "required": ["order"],
}


@pytest.fixture(autouse=True)
def _keeper_in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "WAKE_GRACE", timedelta(0))
    monkeypatch.setattr(settings, "RECONCILE_EVERY", timedelta(0))


async def deployed(desk: Desk, **how: Any) -> str:
    """A new deployment of an agent, ``flow/name``."""
    name = f"seller-{uuid4().hex[:8]}"
    flow_id = await desk.client.create_flow_from_name(name)
    how = {"tags": [settings.AGENT_TAG], "parameter_openapi_schema": SCHEMA} | how
    await desk.client.create_deployment(flow_id, "live", **how)
    return f"{name}/live"


async def send(desk: Desk, deployment: str, order: Any, *, api_url: str | None = "", **how: Any) -> Delivery:
    start = ToStart(deployment=deployment, **({"payload_as": "order"} | how.pop("start", {})))
    given = {"topic": "order.placed", "key": "7", "source": "shop", "delivery_id": None} | how
    return await doors.signal(
        desk.ledger, payload=json.dumps(order), start=start, api_url=desk.url if api_url == "" else api_url, **given
    )


async def run_of(desk: Desk, delivery: Delivery) -> FlowRun:
    assert delivery.run_id is not None
    return await desk.client.read_flow_run(UUID(delivery.run_id))


async def test_it_starts_a_run_whose_input_it_is(desk: Desk) -> None:
    """It is delivered, and tells which run; sent again it is the same run."""
    deployment = await deployed(desk)
    made = await send(desk, deployment, {"n": 1}, delivery_id="d", start={"parameters": {"urgent": True}})
    flow_run = await run_of(desk, made)
    assert made.disposition is Disposition.DELIVERED
    assert flow_run.parameters == {"order": {"n": 1}, "urgent": True}
    again = await send(desk, deployment, {"n": 1}, delivery_id="d")
    assert (again.disposition, again.run_id) == (Disposition.DUPLICATE, made.run_id)
    assert (await send(desk, deployment, {"n": 2})).disposition is Disposition.BUFFERED


async def test_what_looks_like_a_template_stays_what_it_is(desk: Desk) -> None:
    """Row 32: Prefect renders templates in the parameters of a run; not in these."""
    order = {"a": {"__prefect_kind": "jinja", "template": "{{ 7 * 7 }}"}, "b": "{{ 7 * 7 }}", "c": "ö\u2028"}
    made = await send(desk, await deployed(desk), order)
    assert (await run_of(desk, made)).parameters == {"order": order}


@pytest.mark.parametrize(
    ("how", "order", "field"),
    [
        ({"tags": []}, {}, "start.deployment"),
        ({}, [1], "payload"),
        ({"start": {"payload_as": None}}, {}, "start.parameters"),
        ({"start": {"payload_as": "ordre"}}, {}, "start.payload_as"),
        ({"start": {"parameters": {"urgent": "perhaps"}}}, {}, "start.parameters.urgent"),
        ({"start": {"parameters": {"order": {}}}}, {}, "start.payload_as"),
        ({"key": None}, {}, "key"),
        ({}, {"x": [{"$ref": {"block_document_id": "0"}}]}, "payload.x.0.$ref"),
    ],
    ids=["no agent", "payload", "required", "unknown", "parameter", "twice", "no key", "block"],
)
async def test_what_could_not_be_started_is_refused_with_the_field_named(
    desk: Desk, how: dict[str, Any], order: Any, field: str
) -> None:
    deployment = await deployed(desk, **({"tags": how.pop("tags")} if "tags" in how else {}))
    with pytest.raises(StartRefused) as refused:
        await send(desk, deployment, order, **how)
    assert [named for named, _ in refused.value.problems] == [field]
    assert await desk.ledger.signals.all() == [], "nothing was taken"


async def test_with_a_run_that_waits_it_is_for_that_run_whatever_prefect_says_of_the_start(desk: Desk) -> None:
    wait = WaitRow(key="paid", kind=WaitKind.SIGNAL, reason="the order", topic="order.placed", correlation="7")
    run = str(uuid4())
    await parked(desk.ledger, [wait], run=run)
    made = await send(desk, "nobody/knows", {"n": 1})
    assert (made.disposition, made.run_id) == (Disposition.DELIVERED, run)
    assert (await send(desk, "nobody/knows", {"n": 2})).disposition is Disposition.BUFFERED


async def test_an_unknown_deployment_is_refused(desk: Desk) -> None:
    with pytest.raises(StartRefused, match=r"start\.deployment: there is no deployment nobody/knows"):
        await send(desk, "nobody/knows", {})


async def test_what_was_taken_while_prefect_was_away_is_started_later(desk: Desk) -> None:
    """By the keeper; if it cannot be, the doctor names it, and it is tried on."""
    away = "http://127.0.0.1:1/api"
    made = await send(desk, deployment := await deployed(desk), {"n": 1}, api_url=None)
    lost = await send(desk, "nobody/knows", {}, key="8", api_url=None)
    assert (made.disposition, made.run_id, lost.run_id) == (Disposition.DELIVERED, None, None)
    assert (await send(desk, deployment, {"n": 1}, key="9", api_url=away)).run_id is None
    keeper = Keeper(desk.ledger, lambda: PrefectClient(desk.url))
    for _ in range(2):
        await keeper.tick()
    found = {start.correlation: start for start in await desk.ledger.starts.all()}
    for key in ("7", "9"):
        assert (await desk.client.read_flow_run(UUID(found[key].run_id))).parameters == {"order": {"n": 1}}
    assert found["8"].run_id is None
    assert "nobody/knows" in found["8"].note


async def followed(desk: Desk, rounds: int = 1, keeper: Keeper | None = None) -> dict[str, Any]:
    """Starts by their key, after the keeper has looked after them."""
    keeper = keeper or Keeper(desk.ledger, lambda: PrefectClient(desk.url))
    for _ in range(rounds):
        await keeper.tick()
    return {start.correlation: start for start in await desk.ledger.starts.all()}


async def became(desk: Desk) -> dict[str, tuple[str, str | None]]:
    return {row.delivery_id: (row.disposition, row.note) for row in await desk.ledger.signals.all()}


async def test_what_prefect_refuses_for_good_is_given_up_and_its_signals_are_dead_letters(desk: Desk) -> None:
    """It was taken while Prefect could not be asked, and its parameters fit no schema: its key is free again."""
    deployment = await deployed(desk)
    await send(desk, deployment, [1], api_url=None, delivery_id="bad")
    await send(desk, deployment, {"n": 1}, api_url=None, delivery_id="behind")
    start = (await followed(desk))["7"]
    assert (start.run_id, start.ended_as) == (None, "failed")
    dead = await became(desk)
    assert (dead["bad"][0], dead["behind"][0]) == ("rejected", "unmatched")
    assert deployment in (dead["bad"][1] or "")
    assert (await send(desk, deployment, {"n": 2})).run_id is not None


@pytest.mark.parametrize("said", [{"json": {"message": "from a gateway"}}, {"html": "<p>no</p>"}], ids=["json", "page"])
async def test_no_start_is_given_up_for_one_refusal_of_a_proxy(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    await send(desk, await deployed(desk), {"n": 1}, api_url=None, delivery_id="d")
    asks, spoiled = httpx.AsyncClient.send, []

    async def asked(self: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        if request.url.path.endswith("/create_flow_run") and not spoiled:
            spoiled.append(400)
            return httpx.Response(400, request=request, **said)
        return await asks(self, request, **options)

    monkeypatch.setattr(httpx.AsyncClient, "send", asked)
    start = (await followed(desk))["7"]
    assert spoiled
    assert start.run_id is not None
    assert (await became(desk))["d"][0] == "delivered"


@pytest.mark.parametrize("error", [KeyError("odd"), ValueError("\0\ud800"), httpx.ReadTimeout("slow")])
async def test_a_start_that_goes_wrong_keeps_no_other_from_being_made(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever the error is; and neither one whose name no address can have, which a ledger may have from before."""
    deployment = await deployed(desk)
    bad = {"source": "shop", "topic": "order.placed", "payload": "1"}
    poison = NewStart("a/b\n", "{}", takes_payload=False)
    await desk.ledger.signals.deliver(delivery_id="poison", correlation="poison", start=poison, **bad)
    await send(desk, deployment, {}, key="odd", api_url=None)
    await send(desk, deployment, {}, key="good", api_url=None)
    make_run = starts.make_run

    async def made(ledger: Ledger, start: Any, client: PrefectClient) -> str:
        if start.correlation == "odd":
            raise error
        return await make_run(ledger, start, client)

    monkeypatch.setattr(starts, "make_run", made)
    found = await followed(desk, rounds=2)
    assert found["good"].run_id is not None
    assert (found["odd"].over_at, found["odd"].note.startswith(deployment)) == (None, True), "it is tried again"
    assert found["poison"].over_at is not None
    assert (await became(desk))["poison"][0] == "unmatched"


async def test_an_agent_that_cannot_be_started_keeps_no_other_that_is_waited_for_from_it(desk: Desk) -> None:
    """Its name is none that an address can have."""
    for key, name in (("bad", "a/b\n"), ("good", await deployed(desk, parameter_openapi_schema={}))):
        child = json.dumps({"deployment": name, "parameters": {}, "if_closed": "cancel"})
        row = WaitRow(key=key, kind=WaitKind.AGENT, reason=key, child=child)
        await parked(desk.ledger, [row], run=str(uuid4()))
    await followed(desk)
    waits = {wait.key: wait.child_run_id for wait in await desk.ledger.waits.open_ones()}
    assert waits["bad"] is None
    assert waits["good"] is not None


async def test_a_start_at_which_prefect_fails_for_long_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers 500 to half of a surrogate pair, however often it is asked."""
    start = NewStart(await deployed(desk), '{"order": {"x": "\\ud800"}}', takes_payload=True)
    await desk.ledger.signals.deliver(
        source="shop", delivery_id="d", topic="order.placed", correlation="7", payload="1", start=start
    )
    keeper = Keeper(desk.ledger, lambda: PrefectClient(desk.url))
    tried = (await followed(desk, 2, keeper))["7"]
    assert (tried.over_at, "500" in tried.note) == (None, True)
    assert (await became(desk))["d"][0] == "delivered"
    monkeypatch.setattr(starts, "GIVE_UP_AFTER", timedelta(0))
    assert (await followed(desk, 1, keeper))["7"].over_at is not None
    assert (await became(desk))["d"][0] == "rejected"


async def test_a_door_has_a_signal_whatever_goes_wrong_with_its_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def odd(*_: object) -> str:
        raise KeyError("odd")

    monkeypatch.setattr(starts, "make_run", odd)
    made = await send(desk, await deployed(desk), {})
    assert (made.disposition, made.run_id) == (Disposition.DELIVERED, None)


async def test_a_run_that_ends_before_it_came_to_the_ledger_frees_its_key(desk: Desk) -> None:
    deployment = await deployed(desk)
    made = await send(desk, deployment, {"n": 1})
    await desk.client.set_flow_run_state((await run_of(desk, made)).id, Cancelled())
    keeper = Keeper(desk.ledger, lambda: PrefectClient(desk.url))
    await keeper.tick()
    second = await send(desk, deployment, {"n": 2})
    assert second.disposition is Disposition.DELIVERED
    assert second.run_id != made.run_id
