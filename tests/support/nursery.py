"""In a forked `standby up`: its children are forked, too (``tests.support.engine``), where it would start Pythons."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.forks import Fork, Forks


class Process:
    """What `up` needs of an ``asyncio.subprocess.Process``. None of its children hears of its end by its input."""

    stdin = None

    def __init__(self, fork: Fork, output: Path | None) -> None:
        self.pid = fork.pid
        self._fork, self._output = fork, output

    @property
    def returncode(self) -> int | None:
        return self._fork.poll()

    async def wait(self) -> int:
        return await asyncio.shield(asyncio.wrap_future(self._fork.code))

    async def communicate(self) -> tuple[bytes, None]:
        assert self._output is not None
        await self.wait()
        return self._output.read_bytes(), None


def bring_up_children(connection: socket.socket) -> None:
    """From now on ``asyncio.create_subprocess_exec`` has ``python -m ...`` forked by who is at the other end."""
    forks, plainly = Forks(connection), asyncio.create_subprocess_exec

    async def start(program: str, *arguments: str, env: Mapping[str, str], stdout: Any, **options: Any) -> Any:
        if program != sys.executable or arguments[0] != "-m":
            return await plainly(program, *arguments, env=env, stdout=stdout, **options)
        output = None
        if stdout == asyncio.subprocess.PIPE:
            descriptor, name = tempfile.mkstemp()
            os.close(descriptor)
            output = Path(name)
        fork = Fork()
        log = output or Path(stdout.name)
        forks.start(fork, arguments[1:], env=env, cwd=Path.cwd(), log=log, service=True)
        await asyncio.wrap_future(fork.started)
        return Process(fork, output)

    asyncio.create_subprocess_exec = start  # type: ignore[assignment]
