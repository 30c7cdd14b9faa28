"""Tools that a provider runs itself, where nobody can ask: only those that the scope allows whatever they do."""

from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, NativeToolCallPart, NativeToolReturnPart, TextPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel

from standby.agents import AgentScope, run_agent
from standby.errors import UsageError
from tests.agents.bench import Bench
from tests.agents.conftest import Script, allow

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("web_search", {"openai_native_tools": [{"type": "web_search"}]}),
    ("file_search", {"openai_builtin_tools": ({"type": "web_search"}, {"type": "file_search"})}),
    ("plugins", {"extra_body": {"plugins": [{"id": "web"}]}}),
    ("web_search_options", {"extra_body": {"web_search_options": {"search_context_size": "low"}}}),
    ("tools", {"bedrock_additional_model_requests_fields": {"tools": [{"google_search": {}}]}}),
    ("tools", {"extra_body": "unknown"}),
    ("enable_search", {"extra_body": {"enable_search": True}}),
    ("enable_search", {"extra_body": {"parameters": {"top_k": 3, "enable_search": True}}}),
    ("compound_custom", {"extra_body": {"compound_custom": {"tools": {"enabled_tools": ["web_search"]}}}}),
    ("connectors", {"extra_body": {"connectors": [{"id": "web-search"}]}}),
    ("search", {"extra_body": {"search": {"enable": True, "type": "web_search"}}}),
    ("web_search", {"extra_body": {"extra_body": {"tools": [{"type": "web_search"}]}}}),
    ("tools", {"extra_body": {"google": {"tools": [{"google_search": {}}]}}}),
    ("Tools", {"extra_body": {"Tools": [{"google_search": {}}]}}),
    ("model", {"extra_body": {"model": "some:online"}}),
    ("openrouter_models", {"openrouter_models": ["some:online"]}),
    ("google_cached_content", {"google_cached_content": "cachedContents/1"}),
    ("anything_new", {"other_extra_body": {"anything_new": 1}}),
    ("openrouter_preset", {"openrouter_preset": "with-search"}),
]


@pytest.mark.parametrize(("tool", "settings"), SETTINGS)
@pytest.mark.parametrize("where", ["agent", "model", "fallback"])
async def test_tools_in_settings_must_be_allowed(bench: Bench, tool: str, settings: dict[str, Any], where: str) -> None:
    script = Script("done")
    given: Any = settings
    model: Any = FunctionModel(script._say, settings=given if where != "agent" else None)
    model = FallbackModel(Script("no").model, model) if where == "fallback" else model
    thinker: Agent[None, str] = Agent(model, name="thinker", model_settings=given if where == "agent" else None)

    async def work(scope: AgentScope) -> str | None:
        return (await run_agent(thinker, "search", scope=scope)).output

    with pytest.raises(UsageError, match="the scope does not allow it"):
        await bench.run(lambda: work(allow("other") if tool != "file_search" else allow("web_search")))
    assert script.asked == 0
    assert await bench.run(lambda: work(allow(tool, "web_search"))) in ("done", "no")


async def test_settings_without_tools_are_nobodys_business(bench: Bench) -> None:
    settings: Any = {"temperature": 0, "openai_native_tools": []}
    settings["extra_body"] = {
        "tools": [], "enable_search": False, "top_k": 3, "topP": 0.5, "reasoning": {"effort": "low"},
        "chat_template_kwargs": {"enable_thinking": False}, "generationConfig": {"thinkingConfig": {"budget": 7}},
    }  # fmt: skip
    thinker: Agent[None, str] = Agent(Script("done").model, name="thinker", model_settings=settings)

    async def work() -> str | None:
        return (await run_agent(thinker, "x", scope=AgentScope())).output

    assert await bench.run(work) == "done"


@pytest.mark.parametrize("tool", ["web_search", "mcp_server:files"])
@pytest.mark.parametrize("shown", ["call and return", "call", "return"])
async def test_an_answer_in_which_the_provider_has_run_another_tool_ends_the_agent(
    bench: Bench, tool: str, shown: str
) -> None:
    asked, told = NativeToolCallPart(tool, {"q": "x"}, "1"), NativeToolReturnPart(tool, "y", "1")
    used = [part for part, name in ((asked, "call"), (told, "return")) if name in shown]
    script = Script(ModelResponse(parts=[*used, TextPart("done")]))
    thinker: Agent[None, str] = Agent(script.model, name="thinker")
    scope = AgentScope()

    async def read_scope() -> AgentScope:
        return scope

    async def work() -> str | None:
        return (await run_agent(thinker, "x", scope=read_scope)).output

    run = await bench.start(work)
    for _ in range(2):
        with pytest.raises(UsageError, match=f"has run the tool '{tool}'"):
            await run.result()
    scope = allow(tool.partition(":")[0])
    assert await run.again() == "done"
    assert script.asked == 1, "it was asked once, and what that cost is written down"
