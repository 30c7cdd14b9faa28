"""The samples of docs/agents.md, as they stand."""

import re
from pathlib import Path
from typing import Any

from pydantic_ai.models.function import FunctionModel

from standby.agents import AgentScope, Permission
from standby.agents.permissions import ruling
from tests.agents.conftest import Script, call
from tests.fundamentals.conftest import Desk

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()


async def test_the_samples_run(desk: Desk, monkeypatch: Any) -> None:
    names: dict[str, Any] = {"__name__": "samples"}
    for sample in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(sample, "docs/agents.md", "exec"), names)
    scope: AgentScope = names["SCOPE"]
    assert ruling(scope, "fetch", {"url": "https://a.example.org"}).permission is Permission.ALLOW
    assert ruling(scope, "fetch", {"url": "https://example.com"}).permission is Permission.DENY
    script = Script(
        [call("fetch", url="https://a.example.org/harbour"), call("send_brief", to="ada", text="news")],
        call("final_result", title="Harbour", text="news"),
    )
    models = {"openai:gpt-5.2": script.model}
    run_agent = names["run_agent"]

    def scripted(*args: Any, model: str, scope: AgentScope, **options: Any) -> Any:
        without_money = scope.model_copy(update={"budget": scope.budget.model_copy(update={"money": None})})
        return run_agent(*args, model=models[model], scope=without_money, **options)

    names["run_agent"] = scripted
    run = await desk.start(names["careful_brief"], topic="the harbour")
    [wait] = await run.open_waits()
    assert (wait.party, wait.reason) == ("editors", "May researcher call send_brief?")
    await run.answer({"approved": True})
    assert await run.result() == names["Brief"](title="Harbour", text="news")
    assert isinstance(script.model, FunctionModel)
    assert ("send_brief", "sent to ada", "success") in script.told()
