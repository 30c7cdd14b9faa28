"""The research agent: finds something out with tools, inside a scope, and asks before it writes or sends anything."""

import asyncio
import sys

from standby import agent, now, run_here
from standby.agents import AgentScope, run_agent
from tasks.endpoint_model import model_or_script, renewal
from tasks.research import Research, note_on, research_task, researcher
from tasks.research_scope import Bounds, scope_of
from tasks.research_script import research_script
from tasks.send_message import why_unreached


@agent
async def research_agent(
    goal: str,
    send_to: str | None = None,
    scope: str = "research",
    workspace: str = "default",
    model: str = "default",
    within: Bounds | None = None,
) -> Research:
    """Find out what the goal asks for, and write a brief.

    Args:
        goal: What to find out, in words, with all that is needed to know it.
        send_to: The party that is sent the brief once a person has approved it, such as readers. By default nobody.
            It needs a channel in notification-channels/default; without one the brief is written to a file alone.
        scope: The block agent-scope/NAME that says what it may do.
        workspace: The block workspace/NAME that says what its tools can reach.
        model: The block model-endpoint/NAME that says which language model it asks.
        within: What an agent that starts this one gives along, and people leave out: a wider scope that this one stays
            inside of, and the workspace, which then counts instead of its own.
    """
    if within is not None:
        workspace = within.workspace
    today = (await now()).date()
    # Before anybody is asked: a person does not sign off what cannot be sent.
    unreached = await why_unreached(send_to) if send_to else None
    mind = await model_or_script(model, research_script(goal, today, send_to, unreached))

    async def allowed() -> AgentScope:
        own = await scope_of(scope)
        return own if within is None else within.scope.narrowed(own)

    task = research_task(goal, today, send_to, unreached)
    done = await run_agent(researcher(mind, workspace), task, scope=allowed, recheck=renewal(mind))
    return Research(
        brief=done.output, stopped=done.stopped, why=done.why, model=mind.model_name, spent=done.spent.said,
        note=note_on(send_to, done.messages, unreached),
    )  # fmt: skip


async def main(goal: str) -> None:
    """Run the agent here, without a deployment."""
    print((await run_here(research_agent, goal=goal)).model_dump_json(indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python flows/research_agent.py GOAL")
    asyncio.run(main(sys.argv[1]))
