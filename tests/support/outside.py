"""A service outside of the runs. It writes down every deed it is asked for, and can be asked what it did.

One line of JSON for each deed in the file ``OUTSIDE`` names, on disk before the caller goes on, so that a killed
caller's last deed counts.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple


class Deed(NamedTuple):
    what: str
    key: str  # the idempotency key that was sent along
    once: bool  # whether a second one for the same key is an error
    pid: int  # the process that asked
    facts: dict[str, Any]


def act(what: str, key: str, *, once: bool = False, **facts: Any) -> None:
    line = json.dumps(Deed(what, key, once, os.getpid(), facts)) + "\n"
    file = os.open(_place(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, line.encode())
        os.fsync(file)
    finally:
        os.close(file)


def deeds(what: str | None = None, key: str | None = None, place: Path | None = None) -> list[Deed]:
    """All deeds in order; of one kind, of one key."""
    place = place or _place()
    found = [Deed(*json.loads(line)) for line in place.read_text().splitlines()] if place.exists() else []
    return [deed for deed in found if what in (None, deed.what) and key in (None, deed.key)]


def stand_at_gate(name: str, key: str) -> None:
    """Tell that a step has come to the gate, and stay until it is open."""
    act("gate", key)
    while not is_open(name):
        time.sleep(0.02)


def is_open(name: str) -> bool:
    return gate(_place(), name).exists()


def gate(place: Path, name: str) -> Path:
    """The file whose being there opens the gate."""
    return place.with_name(f"{place.name}.{name}")


def _place() -> Path:
    return Path(os.environ["OUTSIDE"])
