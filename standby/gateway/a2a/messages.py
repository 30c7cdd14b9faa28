"""What a client says in a message: the parameters of a run, or an answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from a2a.types import Message
from a2a.utils.errors import ContentTypeNotSupportedError

from standby.agent_tasks import EXACT
from standby.gateway.a2a.wire import plain
from standby.gateway.refusals import Refused

AS_TEXT = "send it as a text part that is JSON: the protocol keeps no such number in a data part"


def metadata(message: Message, name: str) -> str | None:
    """What the message's metadata have under a name."""
    value = plain(message.metadata).get(name) if message.HasField("metadata") else None
    if value is not None and not isinstance(value, str):
        raise Refused(422, "The message does not fit.", [(f"metadata.{name}", "it is not text")])
    return value


def answer(message: Message) -> str:
    """The JSON text of an answer: the data part, or the text, which need not be JSON where a text is asked for."""
    values, text = _parts(message)
    if len(values) + (text is not None) != 1:
        raise Refused(422, "The message does not fit.", [("parts", "an answer is one data part, or text")])
    if text is None:
        return json.dumps(values[0])
    return text if _json(text) is not _NOTHING else json.dumps(text)


async def parameters(message: Message, schema: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """The parameters of a run: the data part, which is an object, or text that is one in JSON.

    Any other text is the one parameter that the agent's JSON ``schema`` requires and the data part has not.
    """
    values, text = _parts(message)
    if len(values) > 1:
        raise Refused(422, "The message does not fit.", [("parts", "there is more than one data part")])
    given = values[0] if values else {}
    if not values and text is not None and isinstance(whole := _json(text), dict):
        return whole
    if not isinstance(given, dict):
        raise Refused(422, "The message does not fit.", [("parts", "the parameters are an object")])
    if text is None:
        return given
    asks = await schema()
    left = [name for name in asks.get("required", []) if name not in given]
    if len(left) != 1:
        what = f"the agent's parameters are {', '.join(asks.get('properties', {})) or 'none'}: send a data part"
        raise Refused(
            422, "The message does not fit.", [("parts", f"text is for one parameter that is left, and {what}")]
        )
    return {**given, left[0]: text}


_NOTHING = object()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOTHING


def _parts(message: Message) -> tuple[list[Any], str | None]:
    values, texts = [], []
    for part in message.parts:
        kind = part.WhichOneof("content")
        if kind == "data":
            values.append(_plain(plain(part.data)))
        elif kind == "text":
            texts.append(part.text)
        else:
            raise ContentTypeNotSupportedError("Parts are data or text here.")
    return values, "\n".join(texts) if texts else None


def _plain(value: Any) -> Any:
    """The value with whole numbers as they were sent."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        if abs(value) >= EXACT:
            raise Refused(422, "The message does not fit.", [("parts", f"{value:.0f}: {AS_TEXT}")])
        return int(value)
    return value
