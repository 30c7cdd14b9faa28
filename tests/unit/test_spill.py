"""A large value that is recorded is there, whole, whoever else keeps the same value or dies at it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from standby import spill
from standby.checkpoints import CheckpointStore
from standby.ledger.checkpoints import Entry
from standby.states import CheckpointKind, CheckpointState
from tests.support.forks import ROOT
from tests.support.waiting import wait_until

LARGE = '"' + "y" * 300_000 + '"'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Beside the ledger, which is not where the process has its own data."""
    monkeypatch.setenv("STANDBY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STANDBY_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
    return tmp_path / "spill"


async def recorded(text: str) -> Entry:
    value, name, digest = await CheckpointStore().keep(text)
    return Entry("large", 0, CheckpointKind.STEP, CheckpointState.RECORDED, value, name, digest, 1)


async def test_it_lies_beside_the_ledger_under_the_name_of_its_content(folder: Path) -> None:
    entry = await recorded(LARGE)
    assert [file.name for file in folder.iterdir()] == [entry.spill]
    assert await CheckpointStore().text_of(entry) == LARGE


async def test_it_is_read_while_others_keep_the_same(folder: Path) -> None:
    entry = await recorded(LARGE)
    (folder / str(entry.spill)).write_text("damaged, so it is written again and again")
    store = CheckpointStore()
    await store.keep(LARGE)
    kept = [store.keep(LARGE) for _ in range(50)]
    read = [store.text_of(entry) for _ in range(50)]
    assert set(await asyncio.gather(*read, *kept)) == {LARGE, (None, entry.spill, entry.digest)}


async def test_one_that_is_killed_while_it_keeps_a_value_leaves_nothing_of_that_name(folder: Path) -> None:
    """And the next one keeps it."""
    size = 200_000_000
    code = (
        f"from standby.spill import _write; from pathlib import Path; _write(Path({str(folder)!r}), 'x', b'y' * {size})"
    )
    other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)  # noqa: ASYNC220
    await wait_until(lambda: folder.exists() and list(folder.iterdir()), every=0.001)
    other.kill()
    other.wait()
    assert not (folder / "x").exists() or (folder / "x").stat().st_size == size
    entry = await recorded(LARGE)
    assert await CheckpointStore().text_of(entry) == LARGE


async def test_what_cannot_be_written_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = await recorded(LARGE)
    (folder / str(entry.spill)).write_text("damaged")

    def no_room(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        await recorded(LARGE)
    assert [file.read_text() for file in folder.iterdir()] == ["damaged"]


async def test_a_file_system_that_fails_for_a_moment_is_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "TRIED_AGAIN_AFTER", (0.0, 0.0))
    failing = 2

    def fails_twice(real: Callable[..., Any]) -> Callable[..., Any]:
        def work(*args: Any, **kwargs: Any) -> Any:
            nonlocal failing
            if failing:
                failing -= 1
                raise OSError(116, "Stale file handle")
            return real(*args, **kwargs)

        return work

    monkeypatch.setattr(spill, "_write", fails_twice(spill._write))
    entry = await recorded(LARGE)
    assert failing == 0
    failing = 2
    monkeypatch.setattr(Path, "read_text", fails_twice(Path.read_text))
    assert await CheckpointStore().text_of(entry) == LARGE
    failing = 3
    with pytest.raises(ValueError, match="Stale file handle"):
        await CheckpointStore().text_of(entry)


async def test_file_and_name_are_on_the_disk_before_the_row_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: (synced.append(os.readlink(f"/proc/self/fd/{number}")), fsync(number))
    )
    entry = await recorded(LARGE)
    assert [Path(name).name.startswith(f".{entry.spill}") for name in synced] == [True, False]
    assert synced[1] == str(folder)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("sqlite:////data/ledger.db", "/data/spill"),
        ("sqlite:///ledger.db", "spill"),
        ("sqlite://", "home/spill"),
    ],
)
def test_beside_a_ledger_is_its_folder(url: str, place: str, tmp_path: Path) -> None:
    assert spill.folder_beside(url) in (Path(place), tmp_path / place)
