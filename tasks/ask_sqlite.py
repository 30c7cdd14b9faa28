"""One query on a SQLite file, as a program: no clock interrupts a long instruction, but whoever started it can end it.
Asked and answered in JSON, on standard input and output.
"""

import json
import math
import resource
import sqlite3
import sys
import time
from contextlib import closing
from typing import Any
from urllib.parse import quote

LARGEST_ON_THE_WAY = 100_000
"""Bytes of each value and row that SQLite works with; a query that comes upon a larger one fails."""
LONGEST_PATTERN = 100
"""Bytes of what LIKE and GLOB compare with: pattern times value is what one call costs."""
LOOKS = 100
"""Instructions of SQLite between two looks at the clock; it looks only where it jumps, which loops do."""
CPU_ON_TOP = 2
"""Seconds of a processor beyond the query's own that the program has, should nobody be left to end it."""
LARGEST_FILE = 100_000_000
"""Bytes of each temporary file, which is how SQLite sorts what is large."""
MOST_MEMORY = 256_000_000
"""Bytes of memory that the program may have."""

_MAY = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_FUNCTION}
_MAY_NOT_CALL = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}


def ask(sql: str, file: str, most: int, room: int, longest: int, largest: int, seconds: float) -> dict[str, Any]:
    """``columns`` and ``rows``; or ``said``, what SQLite says against it. Bytes come as hexadecimal.

    ``most``: rows that are read; ``room``: characters of them, the row that goes beyond it is the last. ``longest``:
    characters of one value, of longer ones the beginning is read; ``largest``: of one row, and of the columns' names.
    """
    ends = time.monotonic() + seconds
    try:
        with closing(sqlite3.connect(f"file:{quote(file)}?mode=ro", uri=True, timeout=seconds)) as database:
            # No value, no row, and nothing that is put together on the way, grows beyond this.
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_ON_THE_WAY)
            database.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, LONGEST_PATTERN)
            database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            database.set_authorizer(_authorize)
            database.set_progress_handler(lambda: time.monotonic() > ends, LOOKS)
            cursor = database.execute(sql)
            if cursor.description is None:
                return {"said": "it is not a query"}
            columns = [column[0] for column in cursor.description]
            if sum(map(len, columns)) > largest:
                return {"said": f"the names of its columns have more than {largest} characters"}
            rows: list[list[Any]] = []
            while room >= 0 and len(rows) < most and (row := cursor.fetchone()) is not None:
                rows.append([_plain(value, longest) for value in row])
                size = sum(len(str(value)) for value in rows[-1])
                if size > largest:
                    return {"said": f"a row has more than {largest} characters"}
                room -= size
            return {"columns": columns, "rows": rows}
    except (sqlite3.Error, sqlite3.Warning) as error:
        return {"said": str(error)}
    except MemoryError:
        return {"said": "it takes more memory than a query may have"}


def _authorize(action: int, first: str | None, second: str | None, _: str | None, __: str | None) -> int:
    if action not in _MAY or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _MAY_NOT_CALL):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _plain(value: Any, longest: int) -> Any:
    if isinstance(value, bytes):
        value = value.hex()
    return value[:longest] if isinstance(value, str) else value


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    cpu = math.ceil(asked["seconds"]) + CPU_ON_TOP
    limits = ((resource.RLIMIT_CPU, cpu), (resource.RLIMIT_FSIZE, LARGEST_FILE), (resource.RLIMIT_DATA, MOST_MEMORY))
    for what, most in limits:
        resource.setrlimit(what, (most, most))
    print("begun", flush=True)  # from here on its time counts
    print(json.dumps(ask(**asked)), flush=True)


if __name__ == "__main__":
    main()
