"""What the program does before it loads anything."""

from __future__ import annotations

import gc
import os
import sys

import pytest

from standby import __main__, cli


@pytest.mark.parametrize(("command", "told", "then"), [("up", None, "1"), ("up", "0", "0"), ("ps", None, None)])
def test_up_begins_without_prefect_s_word_about_usage_data(
    monkeypatch: pytest.MonkeyPatch, command: str, told: str | None, then: str | None
) -> None:
    """Prefect says it when it is imported, unless it is told not to by then."""
    seen: list[str | None] = []
    if told is None:
        monkeypatch.delenv("DO_NOT_TRACK")
    else:
        monkeypatch.setenv("DO_NOT_TRACK", told)
    monkeypatch.setattr(sys, "argv", ["standby", command])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(cli, "main", lambda: seen.append(os.environ.get("DO_NOT_TRACK")))
    threshold = gc.get_threshold()
    try:
        __main__.main()
    finally:
        gc.set_threshold(*threshold)
    assert seen == [then]
