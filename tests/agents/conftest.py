"""A desk to run model-driven agents at, and models that say what a test has them say."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import Pause
from prefect.states import Suspended
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from standby import waiting
from standby.agents import AgentScope, Permission, Rule
from standby.ledger import Ledger
from standby.runs import AgentRun
from standby.states import Hold
from tests.agents.bench import Bench
from tests.fundamentals.conftest import (  # noqa: F401
    SOCKETS,
    Desk,
    Interruption,
    desk,
    desk_url,
    interruption,
    prefect_settings,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "desk" in getattr(item, "fixturenames", ()) and item.path.parent.name == "agents":
            item.add_marker(SOCKETS)


def call(tool: str, call_id: str | None = None, /, **arguments: Any) -> ToolCallPart:
    return ToolCallPart(tool, arguments, **({} if call_id is None else {"tool_call_id": call_id}))


Said = str | ToolCallPart | list[ToolCallPart] | ModelResponse


class Script:
    """A model that says its lines in turn, by how often the conversation has been answered. ``asked`` counts requests.

    A line may be a function of the messages so far.
    """

    def __init__(self, *lines: Said | Callable[[list[ModelMessage]], Said], tokens: int = 10) -> None:
        self.lines, self.tokens = lines, tokens
        self.asked = 0
        self.seen: list[list[ModelMessage]] = []
        self.tools: list[str] = []

    @property
    def model(self) -> FunctionModel:
        return FunctionModel(self._say, model_name="scripted")

    def _say(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.asked += 1
        self.seen.append(messages)
        self.tools = [tool.name for tool in info.function_tools]
        line: Any = self.lines[sum(isinstance(message, ModelResponse) for message in messages)]
        said = line(messages) if callable(line) else line
        if isinstance(said, ModelResponse):
            return said
        parts: Any = [TextPart(said)] if isinstance(said, str) else said if isinstance(said, list) else [said]
        return ModelResponse(parts=parts, usage=RequestUsage(input_tokens=self.tokens, output_tokens=0))

    def told(self) -> list[tuple[str, Any, str]]:
        """What the tools came to, as the model saw it last: tool, content, outcome."""
        return [
            (part.tool_name, part.content, part.outcome)
            for message in self.seen[-1]
            if isinstance(message, ModelRequest)
            for part in message.parts
            if isinstance(part, ToolReturnPart)
        ]


def raising(error: BaseException, *, then: Said) -> Callable[[list[ModelMessage]], Said]:
    """A line of a model that raises this, and says something when it is asked again."""
    errors = [error]

    def line(_: list[ModelMessage]) -> Said:
        if errors:
            raise errors.pop()
        return then

    return line


def allow(*tools: str, **more: Any) -> AgentScope:
    return AgentScope(tools=tuple(Rule(tool=tool, permission=Permission.ALLOW) for tool in tools), **more)


def ask(*tools: str, **more: Any) -> AgentScope:
    return AgentScope(tools=tuple(Rule(tool=tool, permission=Permission.ASK) for tool in tools), **more)


@pytest.fixture
async def bench(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setenv("STANDBY_LEDGER_URL", sqlite_url)
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path / "home"))
    ledger = await Ledger.connect(sqlite_url)
    yield Bench(ledger, sqlite_url)
    await ledger.close()


@pytest.fixture
def suspending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that are suspended, without Prefect."""

    async def suspend(run: AgentRun, key: str, group: Any) -> None:
        assert await run.ledger.runs.park(run.id, run.attempt, key, Hold.SUSPEND, None) is not None
        raise run.must_stop(Pause(state=Suspended()))

    async def take_response(*_: Any) -> None:
        """Nothing comes through Prefect."""

    monkeypatch.setattr(waiting, "suspend", suspend)
    monkeypatch.setattr(waiting, "take_response", take_response)
