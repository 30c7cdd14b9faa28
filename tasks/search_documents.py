"""Tools: search a folder of documents, and read one of them.

The index is SQLite's full-text search, kept in the data folder and brought up to date before each search: what is new
or was changed is read again, what is gone is forgotten. Passages are ranked by BM25.
"""

import asyncio
import hashlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pydantic import BaseModel

from standby.settings import home
from tasks.errors import ToolFailed, ToolRefused
from tasks.page_text import page_text

KINDS = {".md", ".txt", ".rst", ".csv", ".json", ".html", ".htm"}
"""Files that are searched, by the ends of their names; others are passed over."""
MOST_FILES = 20_000
LARGEST_FILE = 5_000_000
"""Bytes; larger ones are passed over."""
PASSAGE = 1200
"""About how many characters a passage has."""
MOST_WORDS = 32
_WORD = re.compile(r"\w+")

_TABLES = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, changed INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS passages USING fts5 (
    path UNINDEXED, place UNINDEXED, words, tokenize = "unicode61 remove_diacritics 2"
);
"""


class Passage(BaseModel):
    """A piece of a document. ``path`` is below the folder; ``place`` counts the document's passages from 1."""

    path: str
    place: int
    text: str


class Document(BaseModel):
    """A document from character ``start`` on; ``next`` is where to go on reading, None at its end."""

    path: str
    text: str
    start: int = 0
    next: int | None = None


async def search_documents(query: str, *, folder: Path, most: int = 8) -> list[Passage]:
    """The passages of the folder's documents that fit the words best, best first; none if no word is found.

    ``most``: how many, 1 to 50. Words are looked for as they are, in any order; one of them is enough, more are better.
    Raises ToolRefused for a query without words, ToolFailed if the folder cannot be read.
    """
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(query)))[:MOST_WORDS]
    if not words:
        raise ToolRefused(query or "an empty query", "there is no word in it to look for", "Give words to search for.")
    return await asyncio.to_thread(_search, words, folder, max(1, min(most, 50)))


async def read_document(path: str, *, folder: Path, start: int = 0, most_characters: int = 20_000) -> Document:
    """A document of the folder, or the part of it from character ``start`` on.

    ``path`` as a search gave it. Raises ToolRefused for what is not a document of the folder, ToolFailed if it cannot
    be read.
    """
    return await asyncio.to_thread(_read, path, folder, max(0, start), most_characters)


def _search(words: list[str], folder: Path, most: int) -> list[Passage]:
    root = _root(folder)
    try:
        with closing(_open(root)) as index:
            _update(index, root)
            # Quoted, a word is a word, whatever it means in the language of queries.
            wanted = " OR ".join(f'"{word}"' for word in words)
            rows = index.execute(
                "SELECT path, place, words FROM passages WHERE passages MATCH ? ORDER BY rank, path, place LIMIT ?",
                (wanted, most),
            ).fetchall()
    except sqlite3.Error as error:
        raise ToolFailed(
            str(folder), f"the search index failed ({error})", "It may be deleted: it is made again."
        ) from None
    except OSError as error:
        raise ToolFailed(str(folder), f"the folder cannot be read ({error.strerror})", "Try again.") from None
    return [Passage(path=path, place=int(place), text=text) for path, place, text in rows]


def _open(root: Path) -> sqlite3.Connection:
    name = hashlib.sha256(str(root).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    file = home() / "search" / f"{name}.db"
    file.parent.mkdir(parents=True, exist_ok=True)
    index = sqlite3.connect(file, timeout=30, isolation_level=None)
    try:
        index.executescript(_TABLES)
    except BaseException:
        index.close()
        raise
    return index


def _update(index: sqlite3.Connection, root: Path) -> None:
    index.execute("BEGIN IMMEDIATE")  # two searches at once: the second finds the index as it should be
    try:
        known = {path: (changed, size) for path, changed, size in index.execute("SELECT * FROM files")}
        there = dict(_documents(root))
        for path in known.keys() - there.keys():
            index.execute("DELETE FROM passages WHERE path = ?", (path,))
            index.execute("DELETE FROM files WHERE path = ?", (path,))
        for path, state in there.items():
            if known.get(path) == state:
                continue
            index.execute("DELETE FROM passages WHERE path = ?", (path,))
            pieces = enumerate(_passages(_text(root / path)), 1)
            index.executemany("INSERT INTO passages VALUES (?, ?, ?)", ((path, place, text) for place, text in pieces))
            index.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (path, *state))
        index.execute("COMMIT")
    except BaseException:
        index.execute("ROLLBACK")
        raise


def _documents(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Path below the folder, and what tells that a file was changed. Links out of the folder are not followed."""
    found = 0
    for file in sorted(root.rglob("*")):
        if file.suffix.lower() not in KINDS or not _is_inside(file, root):
            continue
        state = file.stat()
        name = str(file.relative_to(root))
        if state.st_size > LARGEST_FILE or not _is_text(name):
            continue
        found += 1
        if found > MOST_FILES:
            raise ToolFailed(str(root), f"there are more than {MOST_FILES} documents in it", "Choose a smaller folder.")
        yield name, (state.st_mtime_ns, state.st_size)


def _read(path: str, folder: Path, start: int, most: int) -> Document:
    root = _root(folder)
    file = root / path
    if "\0" in path or not _is_inside(file, root) or file.suffix.lower() not in KINDS:
        raise ToolRefused(path or "an empty path", "it is no document of the folder", "Take a path that a search gave.")
    if file.stat().st_size > LARGEST_FILE:
        raise ToolRefused(path, f"it is larger than {LARGEST_FILE} bytes")
    text = _text(file)
    end = start + most
    return Document(path=path, text=text[start:end], start=start, next=end if end < len(text) else None)


def _root(folder: Path) -> Path:
    root = folder.expanduser().resolve()
    if not root.is_dir():
        raise ToolFailed(str(folder), "there is no such folder", "Correct the documents folder in the block.")
    return root


def _is_inside(file: Path, root: Path) -> bool:
    """Whether it is a file that really lies below the folder, wherever links lead."""
    try:
        real = file.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return real.is_relative_to(root) and real.is_file()


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # a name that is not UTF-8 cannot be given to a model, nor back
        return False
    return True


def _text(file: Path) -> str:
    try:
        text = file.read_bytes().decode("utf-8", "replace").replace("\0", "")
    except OSError as error:
        raise ToolFailed(file.name, f"it cannot be read ({error.strerror})") from None
    return page_text(text, file.as_uri()).text if file.suffix.lower() in (".html", ".htm") else text


def _passages(text: str) -> Iterator[str]:
    """Paragraphs put together up to a passage's length; a longer one is cut."""
    piece = ""
    for paragraph in re.split(r"\n\s*\n", text):
        if piece and len(piece) + len(paragraph) > PASSAGE:
            yield piece
            piece = ""
        piece = f"{piece}\n\n{paragraph}".strip()
        while len(piece) > 2 * PASSAGE:
            yield piece[:PASSAGE]
            piece = piece[PASSAGE:]
    if piece:
        yield piece
