"""Tool: write a text file below a folder, and nowhere else.

The path is walked from the folder's own descriptor, one part at a time and through no link, so that nothing which is
swapped meanwhile leads out of it. The file is written aside, synced and renamed: a reader sees all of it or the one
before.
"""

import asyncio
import errno
import hashlib
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from tasks.errors import ToolFailed, ToolRefused

MOST_BYTES = 1_000_000
MOST_PARTS = 8
_PART = re.compile(r"[^\s./\\\x00-\x1f\x7f\ud800-\udfff][^/\\\x00-\x1f\x7f\ud800-\udfff]{0,99}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Written(BaseModel):
    """A file as it was written. ``path`` is below the folder; ``sha256`` of its bytes, in hexadecimal."""

    path: str
    bytes: int
    sha256: str


async def write_file(path: str, text: str, *, folder: Path, most_bytes: int = MOST_BYTES) -> Written:
    """Write ``text`` as UTF-8 to ``path`` below ``folder``; a file that is there is replaced. Writing twice is once.

    ``path``: up to 8 names with ``/`` between, such as ``reports/week-7.md``; none begins with a dot. Folders are made.
    Raises ToolRefused for another path, a path through a link, or a longer text; ToolFailed if it cannot be written.
    """
    parts = path.split("/")
    if not all(_PART.fullmatch(part) for part in parts) or len(parts) > MOST_PARTS or path != path.strip():
        raise ToolRefused(
            path or "an empty path",
            "it is no path below the folder",
            f"Give up to {MOST_PARTS} names with / between, none of which begins with a dot.",
        )
    try:
        body = text.encode()
    except UnicodeEncodeError:
        raise ToolRefused(path, "the text holds half a character, which no file can") from None
    if len(body) > most_bytes:
        raise ToolRefused(path, f"the text has {len(body)} bytes, and {most_bytes} may be written", "Write less.")
    await asyncio.to_thread(_write, path, parts, body, folder)
    return Written(path=path, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def _write(path: str, parts: list[str], body: bytes, folder: Path) -> None:
    *above, name = parts
    try:
        folder.expanduser().mkdir(parents=True, exist_ok=True)
        # The folder itself may be a link: people chose it.
        here = os.open(folder.expanduser(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ToolFailed(str(folder), f"the folder cannot be used ({error.strerror})", "Correct it.") from None
    try:
        for part in above:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=here)
            below = os.open(part, _FOLDER, dir_fd=here)
            os.close(here)
            here = below
        _replace(here, name, body)
    except OSError as error:
        if isinstance(error, NotADirectoryError) or error.errno == errno.ELOOP:
            raise ToolRefused(path, "a part of it is a file or a link, not a folder", "Choose another.") from None
        raise ToolFailed(path, f"it cannot be written ({error.strerror})", "Choose another name.") from None
    finally:
        os.close(here)


def _replace(here: int, name: str, body: bytes) -> None:
    aside = f".{secrets.token_hex(8)}.tmp"
    try:
        with os.fdopen(os.open(aside, _NEW, 0o644, dir_fd=here), "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, name, src_dir_fd=here, dst_dir_fd=here)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=here)
        raise
    os.fsync(here)
