"""Which process holds a run, and whether it is certainly dead."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

import psutil


def this_process() -> str:
    """``machine/pid/start``: one process on one boot of one machine (and one container of it)."""
    return _named(os.getpid())


@cache
def _named(pid: int) -> str:
    return f"{_machine()}/{pid}/{started(pid)}"


def is_dead(holder: str) -> bool:
    """True when the holder ran on this machine and is gone; False when it lives or cannot be judged from here."""
    machine, pid, since = holder.rsplit("/", 2)
    return machine == _machine() and started(int(pid)) != since


def started(pid: int) -> str:
    """When the process started, as text; empty when there is none, or only its remains."""
    try:
        # Linux: in clock ticks since the boot. Psutil adds the time of the boot, which moves when the clock is set.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    except ProcessLookupError:
        return ""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""


def _machine() -> str:
    """Two processes with the same value see each other's process ids."""
    parts = [socket.gethostname()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(source)
        try:
            parts.append(os.readlink(path) if path.is_symlink() else path.read_text().strip())
        except OSError:
            parts.append("-")
    return ":".join(parts)
