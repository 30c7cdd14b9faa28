"""Code changes: a run goes on with code that keeps the steps it has passed, and stops at any other before it acts."""

from contextlib import suppress

import pytest
from prefect import Flow
from prefect.client.schemas.objects import StateType

from standby import JournalMismatch, agent, step
from tests.fundamentals.conftest import Desk, Interruption


class Journey:
    """An agent that goes to places, one step each, and is interrupted at the end of its first attempt."""

    def __init__(self, interruption: Interruption) -> None:
        self.visited: list[str] = []
        self.interruption = interruption

    def to(self, *places: str) -> Flow[..., object]:
        @agent(name="journey")
        async def journey() -> list[str]:
            found = [await self.visit(place) for place in places]
            self.interruption()
            return found

        return journey

    async def visit(self, place: str) -> str:
        @step(name=place, visible=False)
        async def visit() -> str:
            self.visited.append(place)
            return place

        return await visit()


@pytest.fixture
def journey(interruption: Interruption) -> Journey:
    return Journey(interruption)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(["Oslo", "Bonn", "Rome"], id="added"),
        pytest.param(["Bonn", "Oslo", "Rome"], id="added first"),
        pytest.param(["Rome"], id="removed"),
        pytest.param(["Oslo"], id="removed last"),
        pytest.param([], id="all removed"),
        pytest.param(["Rome", "Oslo"], id="reordered"),
        pytest.param(["Oslo", "Roma"], id="renamed"),
        pytest.param(["Oslo", "Oslo", "Rome"], id="repeated"),
    ],
)
async def test_a_change_before_the_point_reached_stops_the_run(desk: Desk, journey: Journey, changed: list[str]):
    """Before any effect: no step is skipped, repeated or mixed up with another."""
    run = await desk.interrupted(journey.to("Oslo", "Rome"))
    with pytest.raises(JournalMismatch, match="It stopped before doing anything new"):
        await run.again(journey.to(*changed))
    assert journey.visited == ["Oslo", "Rome"]


async def test_with_the_old_code_a_stopped_run_goes_on(desk: Desk, journey: Journey):
    """A mismatch has harmed nothing: deploy the old order, and retry the run."""
    run = await desk.interrupted(journey.to("Oslo", "Rome"))
    with pytest.raises(JournalMismatch):
        await run.again(journey.to("Oslo", "Roma"))
    assert await run.again(journey.to("Oslo", "Rome")) == ["Oslo", "Rome"]
    assert journey.visited == ["Oslo", "Rome"]


async def test_a_change_after_the_point_reached_is_free(desk: Desk, journey: Journey):
    """What the run has not come to may be anything."""
    run = await desk.interrupted(journey.to("Oslo", "Rome"))
    assert await run.again(journey.to("Oslo", "Rome", "Bonn")) == ["Oslo", "Rome", "Bonn"]
    assert journey.visited == ["Oslo", "Rome", "Bonn"]


async def test_an_agent_cannot_catch_a_mismatch_and_go_on(desk: Desk, journey: Journey):
    """Whoever swallows every exception gets this one again at the next step, and at the end."""

    @agent(name="journey")
    async def careless() -> str:
        for place in ("Bonn", "Rome", "Riga"):
            with suppress(Exception):
                await journey.visit(place)
        return "all is well"

    run = await desk.interrupted(journey.to("Oslo", "Rome"))
    with pytest.raises(JournalMismatch, match="the journal has 'Oslo' as step 1, the code asks for 'Bonn'"):
        await run.again(careless)
    assert journey.visited == ["Oslo", "Rome"]
    state = (await desk.client.read_flow_run(run.id)).state
    assert state is not None
    assert state.type is StateType.FAILED
