"""The form that Prefect shows of a wait: its schema, what stands above it, and how its answer is read."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import FlowRunInput
from prefect.exceptions import PrefectHTTPStatusError
from prefect.input.run_input import Keyset

from standby.believing import Careful
from standby.ledger.opening import Group
from standby.policy import Policy
from standby.states import BY_SIGNAL, WaitKind, WaitState
from standby.waits import as_text


def form_wait(group: Group) -> Any | None:
    """The wait of the group that Prefect's Resume form answers: the first approval, else the first signal."""
    for kind in (WaitKind.APPROVAL, *BY_SIGNAL):
        for wait in group.waits:
            if wait.kind == kind and wait.state == WaitState.OPEN:
                return wait
    return None


def opening(wait: Any, number: int | None = None) -> str:
    """Names one opening of a wait, by default as it is open now: what was submitted is an answer to that one."""
    return f"{wait.id}-{wait.opening if number is None else number}"


async def save_form(client: Careful, run_id: str, keyset: Keyset, wait: Any) -> None:
    """Save the form before the run is paused: Prefect refuses an answer while it finds no schema."""
    for key, value in ((keyset["schema"], form_schema(wait)), (keyset["description"], description_of(wait))):
        try:
            await client.create_flow_run_input(UUID(run_id), key=key, value=json.dumps(value))
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 409:  # saved before this attempt got here
                raise


def form_schema(wait: Any) -> dict[str, Any]:
    """JSON Schema of the form as Prefect's UI and API read it: an object, with its types under ``definitions``."""
    text = (wait.answer_schema or "{}").replace("#/$defs/", "#/definitions/")
    schema: dict[str, Any] = json.loads(text)
    if "$defs" in schema:
        schema["definitions"] = schema.pop("$defs")
    if not _is_object(schema):
        definitions = schema.pop("definitions", {})
        field = {"title": "Answer"} | schema
        schema = {"type": "object", "properties": {"answer": field}, "required": ["answer"], "definitions": definitions}
    if wait.kind == WaitKind.APPROVAL:
        # An untouched switch shows off, and one of Prefect's two UIs would send nothing for it and be refused. It
        # stays required, so that an empty answer through the API is still none.
        for name in schema.get("required", []):
            if schema["properties"][name].get("type") == "boolean":
                schema["properties"][name].setdefault("default", False)
    return schema


def _is_object(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "object" and "properties" in schema


def answer_of(response: FlowRunInput, wait: Any) -> str:
    """The JSON text of an answer that came through Prefect."""
    if _is_object(json.loads(wait.answer_schema or "{}")):
        return response.value
    return json.dumps(response.decoded_value["answer"])


def description_of(wait: Any) -> str:
    """What the Prefect UI shows above the form, in Markdown. All but the evidence is text, and is shown as it is."""
    parts = [f"### {as_text(wait.reason)}"]
    if wait.refused:
        parts.append(f"**The last answer was not accepted.** {as_text(wait.refused)}")
    if wait.evidence:
        parts.append(wait.evidence)
    if wait.kind in BY_SIGNAL:
        parts.append("This run waits for a message, not for a person. What is submitted here is taken as the message.")
    if wait.policy is not None and (policy := Policy.model_validate_json(wait.policy)).names_people:
        parts.append(
            f"**Not to be answered here**, where nobody knows who answers: {as_text(policy.said)}. "
            "Answer in the terminal, through the gateway or by a link."
        )
    if wait.deadline is not None:
        then = f"it counts as “{_default_in_words(wait)}”" if wait.has_default else "the wait times out"
        parts.append(f"Unanswered by {wait.deadline:%Y-%m-%d %H:%M} UTC, {then}.")
    return "\n\n".join(parts)


def _default_in_words(wait: Any) -> str:
    """The default answer for people: the fields that differ from an untouched form, by their titles."""
    answer = json.loads(wait.default_answer)
    fields: dict[str, Any] = json.loads(wait.answer_schema or "{}").get("properties", {})
    if not isinstance(answer, dict) or not fields:
        return as_text(json.dumps(answer, ensure_ascii=False))
    told = []
    for name, value in answer.items():
        field = fields.get(name, {})
        if value is None or value == field.get("default", ""):
            continue
        if isinstance(value, bool):
            value = "yes" if value else "no"
        told.append(f"{field.get('title', name)}: {value if isinstance(value, str) else json.dumps(value)}")
    return as_text("; ".join(told) or "the form as it stands")
