"""Data that has the look of a file, told apart from files where both are JSON. Pure.

pydantic-ai writes an image as a mapping with ``"kind": "image-url"``, and reads every such mapping as an image, which
it then fetches from wherever the mapping says. Of data that looks so, the journal has ``kind~`` in place of ``kind``
(of data that has ``kind~`` itself, one ``~`` more), which is taken off again when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

KINDS = frozenset({"image-url", "audio-url", "document-url", "video-url", "binary", "uploaded-file"})
"""Of the mappings that pydantic-ai reads as files."""

_MARKED = re.compile("kind~+")


def marked(content: Any, as_data: Callable[[Any], Any]) -> Any:
    """The same content with its lookalikes marked. ``as_data``: what is neither a list nor a mapping as JSON, or itself
    if it is a file."""
    if not isinstance(content, dict | list | tuple):
        content = as_data(content)
    if isinstance(content, list | tuple):
        return [marked(one, as_data) for one in content]
    if not isinstance(content, dict):
        return content
    kind = content.get("kind")
    looks_so = isinstance(kind, str) and kind in KINDS
    return {
        f"{name}~" if (looks_so and name == "kind") or _is_marked(name) else name: marked(one, as_data)
        for name, one in content.items()
    }


def unmarked(data: Any) -> Any:
    """What ``marked`` was given."""
    if isinstance(data, list):
        return [unmarked(one) for one in data]
    if isinstance(data, dict):
        return {name[:-1] if _is_marked(name) else name: unmarked(one) for name, one in data.items()}
    return data


def _is_marked(name: Any) -> bool:
    return isinstance(name, str) and _MARKED.fullmatch(name) is not None
