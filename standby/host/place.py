"""Where the fork server of a data folder listens, and the command of a work pool whose attempts it starts."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from prefect.utilities.processutils import command_to_string

from standby.errors import UsageError
from standby.host import start

CAN_FORK = sys.platform == "linux"
"""Elsewhere forking is not safe (macOS), or there is none."""

LONGEST_PATH = 100
"""Bytes of a socket's path; the systems take 104 and more, the end of it included."""


@contextmanager
def fork_server_place(home: Path) -> Iterator[str | None]:
    """The path of the socket, in a folder that is only ours; None where attempts are not forked.

    Not in the data folder, whose path may be too long; so may be that of the folder for temporary files (``TMPDIR``).
    """
    name = blake2b(str(home).encode(), digest_size=8).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"standby-{os.getuid()}-{name}"
    if not CAN_FORK or len(os.fsencode(folder / "fork")) > LONGEST_PATH:
        yield None
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.stat(follow_symlinks=False)
    if about.st_uid != os.getuid() or about.st_mode & 0o777 != 0o700 or folder.is_symlink():
        raise UsageError(f"{folder} is not ours alone, and what starts attempts listens there. Delete it.")
    try:
        yield str(folder / "fork")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def attempt_command() -> str:
    """What a work pool runs for an attempt on this machine."""
    if CAN_FORK:
        return command_to_string([sys.executable, "-I", "-S", str(Path(start.__file__))])
    return command_to_string([sys.executable, "-m", "prefect.engine"])
