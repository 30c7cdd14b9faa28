"""The sender of the benchmark of signals: ``python -m benchmarks.sending``, a process of its own.

It takes a JSON line for each block on its standard input and answers with one: when each signal was sent (seconds since
1970) and acknowledged (milliseconds later), and how long the block took. Its connections stay open, and it speaks just
enough HTTP that its own processor time does not show in the gateway's figures.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter, time
from typing import NamedTuple, TypedDict


class Block(TypedDict):
    """Signals for the keys ``{prefix}{n}``, each key once, over so many connections at the same time."""

    port: int
    path: str
    authorization: str
    connections: int
    prefix: str
    count: int


class Sent(TypedDict):
    """What became of a block. ``taken`` are the milliseconds, in the order of the keys."""

    seconds: float
    sent_at: list[float]
    taken: list[float]


class _Line(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def send(block: Block, open_lines: dict[int, list[_Line]], first: int = 0) -> Sent:
    """Send a block over the first of the port's connections; its keys count from ``first``.

    Raises ``RuntimeError`` for what is not delivered.
    """
    # The gateway closes those that were idle for half a minute.
    lines = open_lines[block["port"]] = [line for line in open_lines.get(block["port"], []) if not line.reader.at_eof()]
    while len(lines) < block["connections"]:
        lines.append(_Line(*await asyncio.open_connection("127.0.0.1", block["port"])))
    sent_at, taken = [0.0] * block["count"], [0.0] * block["count"]
    numbers = iter(range(block["count"]))

    async def work(line: _Line) -> None:
        for number in numbers:
            request = _request(block, first + number)
            sent_at[number], start = time(), perf_counter()
            line.writer.write(request)
            answer = await _answer(line.reader)
            taken[number] = (perf_counter() - start) * 1000
            if b'"delivered"' not in answer:
                raise RuntimeError(f"A signal was not delivered: {answer!r}")

    start = perf_counter()
    await asyncio.gather(*map(work, lines[: block["connections"]]))
    return Sent(seconds=perf_counter() - start, sent_at=sent_at, taken=taken)


def _request(block: Block, number: int) -> bytes:
    key = f"{block['prefix']}{number}"
    delivery_id = f"{block['path']} {key}"  # the same key may be sent to two topics
    body = {
        "key": key,
        "delivery_id": delivery_id,
        "payload": {"number": number, "place": "north gate", "level": number / 7},
    }
    text = json.dumps(body).encode()
    head = (
        f"POST {block['path']} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {block['authorization']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    return head + await reader.readexactly(length)


async def main() -> None:
    open_lines: dict[int, list[_Line]] = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await send(json.loads(line), open_lines)), flush=True)
    for lines in open_lines.values():
        for one in lines:
            one.writer.close()


if __name__ == "__main__":
    asyncio.run(main())
