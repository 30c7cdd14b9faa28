"""What taking a signal in costs: one gateway process, signals that each settle a wait, beside Prefect's resume.

A signal is acknowledged when the ledger has it and the wait it settles (fsync). The sender is a process of its own, at
1 and at 32 connections that stay open. A block is 200 signals over one connection or 1,000 over 32, after one that does
not count; the figures of a block are its signals a second, and the median and the 99th percentile of its
acknowledgements. Three ledgers hold 100, 10,000 and 100,000 open waits beside those that the blocks settle, and take
turns, block by block, each with a gateway of its own. "Settled" is when the wait was settled by the ledger's own word,
after the signal was sent; the commit follows, and then the acknowledgement.

The gateways know no Prefect server, so nothing is woken: that is done after the acknowledgement, and not part of it.
``acknowledged p50, runs woken`` is with one: real suspended runs, 50 in each block over one connection, woken through
Prefect meanwhile. It is what can be compared with stock Prefect, where a suspended run is resumed with input: the same
number of runs, one after another, by ``POST /flow_runs/{id}/resume``, each answered with ACCEPT.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, Skipped, of_blocks
from benchmarks.gateways import Gateway, gateway
from benchmarks.ledgers import KINDS, NoDatabase
from benchmarks.open_waits import TOPIC, open_waits, settled_at
from benchmarks.resuming import Resuming
from benchmarks.sending import Block, Sent

NAME = "signals"
OPEN = (100, 10_000, 100_000)
SIZES = {1: 200, 32: 1_000}
"""Signals in a block, by connections."""
BLOCKS = 7

Send = Callable[[Gateway, int, str, int], Awaitable[Sent]]


async def measure(folder: Path) -> AsyncIterator[Figure | Skipped]:
    async with sender() as send:
        for kind in KINDS:
            try:
                async for figure in _on(kind, folder, send):
                    yield figure
            except NoDatabase as reason:
                yield Skipped(NAME, kind, str(reason))


async def _on(kind: str, folder: Path, send: Send) -> AsyncIterator[Figure]:
    taken: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        gateways = {waits: await stack.enter_async_context(gateway(kind, folder, waits)) for waits in OPEN}
        for connections, size in SIZES.items():
            for block in range(1 + BLOCKS):
                for waits, gate in gateways.items():
                    found = await _block(gate, send, connections, f"c{connections}b{block}-", size)
                    for name, value in found.items() if block else ():
                        taken[name, connections, waits].append(value)
    for (name, connections, waits), blocks in taken.items():
        unit = "a second" if name == "signals" else "ms"
        n = BLOCKS * SIZES[connections]
        yield of_blocks(NAME, f"{name}, {_over(connections)}, {waits:,} waits", kind, blocks, n=n, unit=unit)
    for connections in SIZES:
        few, many = (taken["acknowledged p50", connections, waits] for waits in (OPEN[0], OPEN[-1]))
        ratios = [b / a for a, b in zip(few, many, strict=True)]
        name = f"acknowledged p50 at {OPEN[-1]:,} waits over that at {OPEN[0]}, {_over(connections)}"
        yield of_blocks(NAME, name, kind, ratios, n=len(ratios), unit="times")
    async with gateway(kind, folder, OPEN[1], with_prefect=True) as gate, Resuming() as peer:
        ours, theirs = [], []
        for block in range(1 + BLOCKS):
            prefix = f"w{block}-"
            await peer.open_waits(gate.ledger, prefix)
            ours.append(median((await send(gate, 1, prefix, peer.size))["taken"]))
            theirs.append(median(await peer.resume_stock()))
        yield of_blocks(NAME, f"acknowledged p50, runs woken, {_over(1)}", kind, ours[1:], n=BLOCKS * peer.size).beside(
            "stock Prefect's resume", median(theirs[1:])
        )


async def _block(gate: Gateway, send: Send, connections: int, prefix: str, size: int) -> dict[str, float]:
    await open_waits(gate.ledger, prefix, size)
    busy = gate.busy_ms()
    sent = await send(gate, connections, prefix, size)
    busy = gate.busy_ms() - busy
    settled = await settled_at(gate.ledger, prefix)
    until = [(settled[f"{prefix}{number}"] - at) * 1000 for number, at in enumerate(sent["sent_at"])]
    return {
        "signals": size / sent["seconds"],
        "acknowledged p50": median(sent["taken"]), "acknowledged p99": _p99(sent["taken"]),
        "settled p50": median(until), "settled p99": _p99(until), "gateway's processor time": busy / size,
    }  # fmt: skip


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def _over(connections: int) -> str:
    return "1 connection" if connections == 1 else f"{connections} connections"


@asynccontextmanager
async def sender() -> AsyncIterator[Send]:
    """The process that sends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.sending", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        limit=64 * 1024 * 1024,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    to, of = process.stdin, process.stdout

    async def send(gate: Gateway, connections: int, prefix: str, count: int) -> Sent:
        block = Block(
            port=gate.port, path=f"/signals/{TOPIC}", authorization=gate.authorization, connections=connections,
            prefix=prefix, count=count,
        )  # fmt: skip
        to.write(json.dumps(block).encode() + b"\n")
        line = await of.readline()
        if not line:
            raise RuntimeError("The sender has died: what it said is above.")
        sent: Sent = json.loads(line)
        return sent

    try:
        yield send
    finally:
        to.close()
        await process.wait()
