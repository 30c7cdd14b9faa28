"""Large values of checkpoints: files that are named after their content, whole or not there at all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem, WritableFileSystem
from sqlalchemy.engine import make_url

from standby import settings

R = TypeVar("R")

TRIED_AGAIN_AFTER = (0.2, 1.0)
"""Seconds until a file system is asked again that failed: it may be at the other end of a network."""


def folder_beside(ledger_url: str) -> Path:
    """Where large values go that nobody has given another place: beside a SQLite ledger, which all who use it find."""
    database = make_url(ledger_url).database
    return (Path(database).parent if database and database != ":memory:" else settings.home()) / "spill"


async def write(to: str, beside: Path, text: str) -> str:
    """Keep ``text``; its name. ``to``: a file system block (``type/name``), a folder, or empty for ``beside``."""
    data = text.encode()
    name = f"{blake2b(data, digest_size=32).hexdigest()}.json"
    place = await _place(to, beside)
    if isinstance(place, Path):
        await _tried(lambda: asyncio.to_thread(_write, place, name, data))
    else:
        await _tried(lambda: place.write_path(name, data))
    return name


async def read(to: str, beside: Path, name: str) -> str:
    place = await _place(to, beside)
    if isinstance(place, Path):
        return await _tried(lambda: asyncio.to_thread((place / name).read_text, "utf-8"))
    return (await _tried(lambda: place.read_path(name))).decode()


async def _tried(work: Callable[[], Awaitable[R]]) -> R:
    for pause in TRIED_AGAIN_AFTER:
        try:
            return await work()
        except Exception:
            await asyncio.sleep(pause)
    return await work()


async def _place(to: str, beside: Path) -> Path | WritableFileSystem:
    if not to:
        return beside
    if to.startswith((".", "/")) or "/" not in to:
        return Path(to)
    block: object = await Block.aload(to)
    if not isinstance(block, WritableFileSystem):
        raise TypeError(f"Block {to} cannot store large values: it is not a file system.")
    if isinstance(block, LocalFileSystem) and block.basepath:
        return Path(block.basepath).expanduser()
    return block


def _write(folder: Path, name: str, data: bytes) -> None:
    """Others may write the same value now, read it, or be killed at it: so it is never changed where it stands."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / name
    if not (place.exists() and place.read_bytes() == data):
        unfinished = folder / f".{name}.{uuid4().hex}"
        try:
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(place)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    # The row that names it survives a power cut, so must the name; also one that somebody else has just given.
    listing = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(listing)
    finally:
        os.close(listing)
