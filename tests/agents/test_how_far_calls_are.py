"""What the transcript says of calls that have come to nothing yet, of who decided about calls, and of how it ended."""

import json
from datetime import timedelta
from typing import Any

import pytest
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from pydantic_ai import Agent

from standby import agent, doors, now, view
from standby.agents import AgentScope, Asking, AtStop, Budget, ask_human, run_agent
from standby.agents.transcript import as_markdown
from standby.connect import Place
from standby.errors import ScopeStopped
from standby.states import Door
from tests.agents.conftest import Script, allow, ask, call
from tests.fundamentals.conftest import Desk, Run
from tests.support.waiting import wait_until

BOTH = AgentScope(tools=(*allow("look", "ask_human").tools, *ask("send").tools))


def flow(script: Script, scope: AgentScope, *, output: Any = str, caught: bool = False) -> Any:
    thinker: Agent[None, Any] = Agent(script.model, name="thinker", output_type=output, tools=[ask_human()])

    @thinker.tool_plain
    async def look(well: bool = True) -> str:
        if not well:
            raise OSError("password=hunter22 was refused")
        return "seen"

    @thinker.tool_plain
    async def send(to: str) -> str:
        return "sent"

    @agent
    async def research() -> Any:
        try:
            return (await run_agent(thinker, "find it", scope=scope)).output
        except OSError:
            if not caught:
                raise
            await now()  # it goes on
            return "nothing"

    return research


async def transcript(run: Run) -> dict[str, Any]:
    row = await run.desk.ledger.runs.get(run.id)
    [thread] = (await view.run_view(run.desk.ledger, Place(run.desk.url, None), row))["agents"]
    return dict(thread)


async def last_calls(run: Run) -> list[tuple[str, str]]:
    return [(one["tool"], one["outcome"]) for one in (await transcript(run))["turns"][-1]["calls"]]


async def artifacts(run: Run) -> list[str]:
    """What stands in Prefect of it, the newest first."""
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))  # type: ignore[list-item]
    found = await run.desk.client.read_artifacts(artifact_filter=mine)
    found = [one for one in found if one.type == "markdown"]
    return [str(one.data) for one in sorted(found, key=lambda one: str(one.created), reverse=True)]


async def test_what_a_call_waits_for_is_said_and_what_nobody_was_asked_about_is_not_under_way(desk: Desk) -> None:
    calls = [call("look"), call("ask_human", question="which one?"), call("send", to="ada")]
    run = await desk.start(flow(Script(calls, "done"), BOTH))
    await run.open_waits()
    await run.paused()
    parked = [("look", "success"), ("ask_human", "waits for an answer"), ("send", "not done yet")]
    assert await last_calls(run) == parked
    [shown] = await artifacts(run)
    assert "**send**: not done yet\n" in shown
    await run.answer({"answer": "the blue one"}, actor="grace")
    await wait_until(lambda: _asked_about(run), 30)
    await run.paused()
    assert await last_calls(run) == [("look", "success"), ("ask_human", "success"), ("send", "waits for approval")]
    await run.answer({"approved": False, "comment": "too dear"}, actor="carl")
    assert await run.result() == "done"
    thread = await transcript(run)
    by = [(one["approved_by"], one["refused_by"], one["answered_by"]) for one in thread["turns"][0]["calls"]]
    assert by == [(None, None, None), (None, None, "grace"), (None, "carl", None)]
    shown = as_markdown(thread)
    assert "**send**: denied, refused by carl\n" in shown
    assert "success, answered by grace\n" in shown
    assert (await artifacts(run))[0] == shown


async def _asked_about(run: Run) -> bool:
    return any(".asks" in wait.key for wait in await run.open_waits())


async def test_a_run_that_failed_says_why_and_has_nothing_under_way(desk: Desk) -> None:
    script = Script([call("look", well=False), call("send", to="ada")], "done")
    run = await desk.start(flow(script, BOTH))
    with pytest.raises(OSError, match="refused"):
        await run.result()
    assert await last_calls(run) == [("look", "ended by an error"), ("send", "not done")]
    [shown] = await artifacts(run)
    assert shown.endswith("**The run failed:**\n\n```text\nOSError: password=[redacted] was refused\n```")
    assert "**look**: ended by an error\n" in shown


async def test_an_error_that_the_agent_has_caught_is_told_of_the_part_that_it_ended(desk: Desk) -> None:
    run = await desk.start(flow(Script(call("look", well=False), "done"), BOTH, caught=True))
    assert await run.result() == "nothing"
    assert await last_calls(run) == [("look", "ended by an error")]
    thread = await transcript(run)
    assert thread["failed"] == "password=[redacted] was refused"
    assert "Ended by an error:\n\n```text\npassword=[redacted] was refused\n```" in as_markdown(thread)


@pytest.mark.parametrize("at_stop", [AtStop.FINISH, AtStop.FAIL])
async def test_calls_before_which_a_limit_was_reached_were_not_made(desk: Desk, at_stop: AtStop) -> None:
    scope = BOTH.model_copy(update={"budget": Budget(tool_calls=1), "at_stop": at_stop})
    run = await desk.start(flow(Script([call("look"), call("look")], "done"), scope))
    if at_stop is AtStop.FAIL:
        with pytest.raises(ScopeStopped):
            await run.result()
        assert "**The run failed:**" in (await artifacts(run))[0]
    else:
        assert await run.result() is None
    assert await last_calls(run) == [("look", "not done")] * 2


async def test_calls_that_wait_for_more_budget_say_so(desk: Desk) -> None:
    scope = BOTH.model_copy(update={"budget": Budget(tool_calls=1), "at_stop": AtStop.ASK})
    run = await desk.start(flow(Script([call("look"), call("look")], "done"), scope))
    await run.open_waits()
    await run.paused()
    assert await last_calls(run) == [("look", "waits for more budget")] * 2
    await run.answer({"approved": True, "amount": 5})
    assert await run.result() == "done"


@pytest.mark.parametrize(
    ("approved", "field", "outcome"), [(True, "approved_by", "success"), (False, "refused_by", "denied")]
)
async def test_who_decides_through_prefect_has_no_name_and_it_is_said_where_they_were(
    desk: Desk, approved: bool, field: str, outcome: str
) -> None:
    run = await desk.start(flow(Script(call("send", to="ada"), "done"), BOTH))
    [wait] = await run.open_waits()
    said = json.dumps({"approved": approved})
    await doors.answer(desk.ledger, wait, said, door=Door.PREFECT, actor=None, api_url=desk.url)
    assert await run.result() == "done"
    [one] = (await transcript(run))["turns"][0]["calls"]
    assert (one["outcome"], one[field]) == (outcome, "somebody in Prefect")


async def test_nobody_in_time_is_told_from_a_person(desk: Desk) -> None:
    scope = BOTH.model_copy(update={"asking": Asking(within=timedelta(milliseconds=50))})
    run = await desk.start(flow(Script(call("send", to="ada"), "done"), scope))
    assert await run.result() == "done"
    [one] = (await transcript(run))["turns"][0]["calls"]
    assert (one["outcome"], one["refused_by"]) == ("denied", "the deadline")


async def test_a_refusal_that_the_agent_was_stopped_after_is_a_refusal(desk: Desk) -> None:
    run = await desk.start(flow(Script([call("send", to="ada"), call("send", to="bob")], "done"), BOTH))
    await run.open_waits()
    await desk.signal("agent.stop", "enough", key=run.id)
    await run.answer({"approved": True, "refuse_1": True, "reason_1": "not her"}, actor="carl")
    assert await run.result() is None
    calls = (await transcript(run))["turns"][0]["calls"]
    assert [(one["outcome"], one["result"], one["refused_by"]) for one in calls] == [
        ("denied", "not her", "carl"), ("not done", None, None),
    ]  # fmt: skip


async def test_the_output_is_told_from_calls_that_were_passed_over_for_it(desk: Desk) -> None:
    script = Script([call("send", to="ada"), call("final_result", response="no"), call("final_result", response=7)])
    run = await desk.start(flow(script, BOTH, output=int))
    assert await run.result() == 7
    assert await last_calls(run) == [("send", "not done"), ("final_result", "not done"), ("final_result", "the output")]


async def test_a_run_that_fails_in_its_first_model_request_leaves_its_task_and_the_error(desk: Desk) -> None:
    def refused(_: Any) -> Any:
        raise OSError("the provider is away")

    run = await desk.start(flow(Script(refused), BOTH))
    with pytest.raises(OSError, match="away"):
        await run.result()
    [shown] = await artifacts(run)
    assert shown == (
        "# thinker\n\n```text\nfind it\n```\n\nNo model request was done.\n\n"
        "**The run failed:**\n\n```text\nOSError: the provider is away\n```"
    )
