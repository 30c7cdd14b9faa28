"""An agent that sends mail, and asks about each."""

from typing import Any

from pydantic_ai import Agent

from standby import agent
from standby.agents import AgentScope, run_agent
from tests.agents.conftest import Script, ask


class Mailer:
    """An agent whose one tool sends mail. ``sent`` is what was sent."""

    def __init__(self, *lines: Any, scope: AgentScope | None = None, **options: Any) -> None:
        self.script = Script(*lines)
        self.sent: list[tuple[str, str]] = []
        self.scope = scope or ask("send")
        self.thinker: Agent[None, str] = Agent(self.script.model, name="mailer", **options)

        @self.thinker.tool_plain
        async def send(to: str, text: str = "hello") -> str:
            self.sent.append((to, text))
            return f"sent to {to}"

        async def mailing() -> str | None:
            return (await run_agent(self.thinker, "write to them", scope=self.scope)).output

        self.work, self.flow = mailing, agent(mailing)
