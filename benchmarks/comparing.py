"""What other engines take for the same: DBOS and LangGraph, where they are installed (`make bench`).

Each measures itself in a process of its own (``benchmarks/peers``), so that nobody pays for another's imports, on a
fresh database of the kind, set up as its own documentation does. ``wake``, ``storm``: a message comes from inside of
that process, which spares the peers a way that Standby's signals go: from a sender through the gateway to the host.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import time
from typing import NamedTuple

from benchmarks.figures import Figure, Skipped
from benchmarks.ledgers import database

BENCHMARKS = ("checkpoint", "replay", "wake", "parked", "storm", "recover")
PATIENCE_SECONDS = 90.0
"""How long a peer may take for one task, its start and the making of what is measured included."""


class Peer(NamedTuple):
    name: str
    module: str
    packages: tuple[str, ...]

    def installed(self) -> bool:
        try:
            return bool([version(package) for package in self.packages])
        except PackageNotFoundError:
            return False

    def shown(self) -> str:
        return f"{self.name} {version(self.packages[0])}"


PEERS = (
    Peer("DBOS", "benchmarks.peers.with_dbos", ("dbos", "psycopg")),
    Peer(
        "LangGraph",
        "benchmarks.peers.with_langgraph",
        ("langgraph", "langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres", "psycopg"),
    ),
)


class PeerFailed(Exception):
    """A peer did not come to an end; the message says how far it came."""


def missing() -> str:
    """A line about the peers that are not installed; empty when all are."""
    names = [peer.name for peer in PEERS if not peer.installed()]
    return f"{' and '.join(names)} not installed, so not compared with: make bench" if names else ""


async def beside(figures: Iterable[Figure], folder: Path, *, count: int) -> AsyncIterator[Figure | Skipped]:
    """The figures again, beside what each peer takes for the first's benchmark, on a database of its kind.

    A peer gives one number for each figure, in its unit. ``count``: how many waits, workers or steps it has.
    """
    ours = list(figures)
    task, kind = ours[0].benchmark, ours[0].database
    for peer in PEERS:
        if not peer.installed():
            continue
        try:
            async with database(kind, folder) as url:
                theirs = await (_recovered if task == "recover" else _measured)(peer, task, url, count)
        except PeerFailed as reason:
            yield Skipped(task, kind, f"{peer.shown()}: {reason}")
            continue
        for figure, value in zip(ours, theirs, strict=True):
            yield figure.beside(peer.shown(), value)


async def _measured(peer: Peer, task: str, url: str, count: int) -> list[float]:
    async with _process(peer, task, url, count) as process:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                said, failed = await process.communicate()
        except TimeoutError:
            raise PeerFailed(f"not done after {PATIENCE_SECONDS:.0f} s") from None
    if process.returncode:
        raise PeerFailed(_last_line(failed))
    return [float(value) for value in json.loads(said)]


async def _recovered(peer: Peer, task: str, url: str, count: int) -> list[float]:
    """Seconds from the start of a new process, after a SIGKILL of the first, to its first and its last worker."""
    keys = {str(number) for number in range(count)}
    async with _process(peer, task, url, count) as process:
        await _said(process, "works", keys)
    killed = time()
    async with _process(peer, task, url, count) as process:
        again = await _said(process, "works", keys)
    return [min(again) - killed, max(again) - killed]


async def _said(process: asyncio.subprocess.Process, what: str, keys: set[str]) -> list[float]:
    """When each has said it for the first time; returns when all have."""
    found: dict[str, float] = {}
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while found.keys() != keys:
                if not (line := await process.stdout.readline()):
                    raise PeerFailed(_last_line(await process.stderr.read()))
                said, key, at = json.loads(line)
                if said == what:
                    found.setdefault(key, at)
    except TimeoutError:
        raise PeerFailed(f"{len(found)} of {len(keys)} after {PATIENCE_SECONDS:.0f} s") from None
    return list(found.values())


@asynccontextmanager
async def _process(peer: Peer, task: str, url: str, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", peer.module, task, url, str(count),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _last_line(output: bytes) -> str:
    return (output.decode(errors="replace").strip().splitlines() or ["it ended without a word"])[-1]
