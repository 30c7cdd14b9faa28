"""What a research agent may do: as its block says, and as shipped."""

from datetime import timedelta

from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, ConfigDict

from blocks.agent_scope import AgentScope as ScopeBlock
from blocks.agent_scope import scope_named
from standby.agents import AgentScope, Asking, AtStop, Budget, Permission, Rule

SHIPPED = "research"
"""The block that bootstrap saves."""
FREE = ("search_documents", "read_document", "query_database", "fetch_page", "ask_human")
ASKED = ("write_file", "send_message", "start_agent")
PARTY, PATIENCE = "editor", timedelta(days=5)
"""Who is asked, and how long they have. No answer is a no."""


class Bounds(BaseModel):
    """What an agent that starts another gives along, and the other stays inside of: what is left of its own ``scope``,
    and its ``workspace``. Each without the other would let the other agent reach further.
    """

    model_config = ConfigDict(extra="forbid")

    scope: AgentScope
    workspace: str


def research_scope() -> ScopeBlock:
    """As shipped: it reads, and asks to act."""
    return ScopeBlock(
        goal="Find something out, and say where it stands.",
        tools=[
            *(Rule(tool=tool, permission=Permission.ALLOW) for tool in FREE),
            *(Rule(tool=tool, permission=Permission.ASK) for tool in ASKED),
        ],
        budget=Budget(steps=80, tool_calls=50, tokens=500_000, wall=timedelta(days=21)),
        at_stop=AtStop.FINISH,
        asking=Asking(party=PARTY, within=PATIENCE),
    )


async def scope_of(name: str) -> AgentScope:
    """What the block ``agent-scope/NAME`` says now. Where ``research`` was never saved it is as shipped.

    Raises what Prefect raises for any other name, a server that does not answer, or a document that does not fit.
    """
    try:
        return await scope_named(name)()
    except ValueError as error:
        if name == SHIPPED and isinstance(error.__cause__, ObjectNotFound):
            return research_scope().scope()
        raise
