"""The statements that Standby sends to its ledger, as SQLAlchemy sees them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from sqlalchemy import Engine, event


class Statements:
    """A block in which each statement of this thread is noted: when it was sent, on ``perf_counter``, and its text.

    Of this thread: leases are renewed by another, now and then.
    """

    def __init__(self) -> None:
        self._noted: list[tuple[float, str]] = []
        self._thread = threading.get_ident()

    def __enter__(self) -> Statements:
        event.listen(Engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(Engine, "before_cursor_execute", self._note)

    def __iter__(self) -> Iterator[tuple[float, str]]:
        return iter(self._noted)

    def __len__(self) -> int:
        return len(self._noted)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == self._thread:
            self._noted.append((perf_counter(), statement))
