"""The samples of docs/agents.md, as they stand."""

import asyncio
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ObjectNotFound
from pydantic_ai.models.function import FunctionModel

from standby.agents import AgentScope, Permission, scope_named
from standby.agents.permissions import ruling
from standby.up.block_types import register_block_types
from tests.agents.conftest import Script, call
from tests.fundamentals.conftest import Desk

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
SAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SAVES = [sample for sample in SAMPLES if ".save(" in sample]
"""Those that are scripts of their own, run once: they save a block."""


async def test_the_samples_run(desk: Desk, monkeypatch: Any) -> None:
    names: dict[str, Any] = {"__name__": "samples"}
    for sample in SAMPLES:
        if sample in SAVES:
            continue
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


@pytest.mark.parametrize("registered", [True, False])
async def test_the_sample_that_saves_a_scope_saves_the_one_that_is_read_by_its_name(
    desk: Desk, registered: bool
) -> None:
    """Whether Prefect knows that kind of block by then, or does not."""
    [sample] = SAVES
    if registered:
        await register_block_types(desk.client)
    else:
        with suppress(ObjectNotFound):
            await desk.client.delete_block_type((await desk.client.read_block_type_by_slug("agent-scope")).id)
    with desk.prefect.model_copy():
        await asyncio.to_thread(exec, compile(sample, "docs/agents.md", "exec"), {"__name__": "a script"})
        scope = await scope_named("weekly")()
    assert (type(scope), scope.block) == (AgentScope, "weekly")
    assert ruling(scope, "fetch", {"url": "https://a.example.org"}).permission is Permission.ALLOW
    assert ruling(scope, "send_brief", {}).permission is Permission.ASK
    assert ruling(scope, "ask_human", {}).permission is Permission.DENY
    assert (scope.budget.steps, scope.asking.party) == (50, "editors")
