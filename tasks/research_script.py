"""What the research agent does where no model is configured: a script, which no language model has written.

It searches the documents for the words of the goal, looks which tables there are, and puts together what was found; so
that a demonstration, and the tests, go through the tools, the questions and the waits without a network.
"""

from __future__ import annotations

from datetime import date
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelRequest, RetryPromptPart, ToolReturnPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo
from pydantic_core import to_jsonable_python

from standby.testing.scripted_model import Call, Final, scripted

NAME = "scripted: research"
NOTE = "*Put together by a script. No language model is configured; the block model-endpoint/default names one.*"
TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"


def research_script(goal: str, today: date, send_to: str | None, unreached: str | None = None) -> Model:
    """The model that goes through the script for this goal. ``unreached``: why the brief cannot be sent."""

    def deliver(messages: list[ModelMessage], _: AgentInfo) -> list[Call] | Final:
        brief = _brief(goal, messages)
        if not send_to:
            return Final(brief)
        title, text = str(brief["title"]), str(brief["text"])
        write = Call("write_file", {"path": f"briefs/{today.isoformat()}.md", "text": f"# {title}\n\n{text}\n"})
        return [write] if unreached else [write, Call("send_message", {"to": send_to, "subject": title, "body": text})]

    def finish(messages: list[ModelMessage], _: AgentInfo) -> Final:
        brief = _brief(goal, messages)
        done = [f"- {tool}: {said}" for tool, said in _results(messages) if tool in ("write_file", "send_message")]
        if unreached:
            done.append(f"- {unreached}")
        return Final({**brief, "text": "\n".join([str(brief["text"]), "", "What became of it:", "", *done])})

    look = [Call("search_documents", {"query": goal}), Call("query_database", {"sql": TABLES})]
    return scripted(look, deliver, finish, name=NAME)


def _brief(goal: str, messages: list[ModelMessage]) -> dict[str, Any]:
    lines, sources = [NOTE, ""], []
    for tool, said in _results(messages):
        if tool == "search_documents" and isinstance(said, list) and said:
            for passage in said[:5]:
                lines += [f"> {' '.join(passage['text'].split())[:400]}", f"> ({passage['path']})", ""]
                sources.append(passage["path"])
        elif tool == "query_database" and isinstance(said, dict) and "rows" in said:
            names = ", ".join(str(row[0]) for row in said["rows"]) or "none"
            lines += [f"Tables of the database: {names}.", ""]
        elif tool in ("search_documents", "query_database"):
            lines += [f"{tool}: {said or 'nothing was found'}", ""]
    return {"title": goal[:200], "text": "\n".join(lines).strip(), "sources": list(dict.fromkeys(sources))}


def _results(messages: list[ModelMessage]) -> list[tuple[str, Any]]:
    """What each tool has said so far, as JSON values or as text, in order."""
    found: list[tuple[str, Any]] = []
    for message in messages:
        for part in message.parts if isinstance(message, ModelRequest) else ():
            if isinstance(part, ToolReturnPart):
                found.append((part.tool_name, to_jsonable_python(part.content)))
            elif isinstance(part, RetryPromptPart) and part.tool_name:
                found.append((part.tool_name, part.model_response()))
    return found
