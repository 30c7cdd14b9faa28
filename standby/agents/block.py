"""What a model-driven agent may do, as people edit it in the Prefect UI."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

from prefect.blocks.core import Block
from pydantic import Field, field_validator

from standby.agents import scope as scopes
from standby.agents.budgets import Budget
from standby.agents.scope import Asking, AtStop, Rule, inlined


class AgentScope(Block):
    """What one agent may do: its tools, with conditions on their arguments, its budget, and what happens at the end of
    it. A tool without a rule is denied."""

    _block_type_name = "Agent Scope"
    _block_type_slug = "agent-scope"
    _description = "What a model-driven agent may do: tools, permissions, budgets, and whom it asks."

    goal: str = Field(default="", title="Goal", description="What the agent is for; shown to whoever is asked.")
    tools: list[Rule] = Field(
        default=[],
        title="Tools",
        description='One rule or more for each tool: [{"tool": "send", "permission": "ask"}, {"tool": "fetch", '
        '"permission": "allow", "when": [{"kind": "host in", "argument": "url", "hosts": ["example.org"]}]}].',
    )
    budget: Budget = Field(default=Budget(), title="Budget", description="Empty: no limit.")
    deadline: datetime | None = Field(default=None, title="Deadline", description="When it stops, whatever is left.")
    at_stop: Annotated[AtStop, inlined(AtStop)] = Field(
        default=AtStop.FAIL, title="At a limit", description="Fail, finish with what there is, or ask for more."
    )
    asking: Asking = Field(default=Asking(), title="Asking", description="Which party is asked, and how it decides.")

    @field_validator("deadline")
    @classmethod
    def _aware(cls, deadline: datetime | None) -> datetime | None:
        if deadline is not None and deadline.tzinfo is None:
            raise ValueError("a deadline has a time zone, such as 2027-01-31T12:00:00Z")
        return deadline

    def scope(self) -> scopes.AgentScope:
        """The scope that the block says."""
        return scopes.AgentScope(
            goal=self.goal,
            tools=tuple(self.tools),
            budget=self.budget,
            deadline=self.deadline,
            at_stop=self.at_stop,
            asking=self.asking,
            block=self._block_document_name,
        )


def scope_named(name: str) -> Callable[[], Awaitable[scopes.AgentScope]]:
    """For ``run_agent(scope=...)``: the block document of this name, read anew in each attempt and after each wait.

    Without such a document the agent fails: a scope that is not there allows nothing.
    """

    async def read() -> scopes.AgentScope:
        block: Any = await AgentScope.aload(name, validate=True)
        return block.scope()  # type: ignore[no-any-return]

    return read
