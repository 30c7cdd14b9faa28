"""Tool: ask a SQL database, SQLite or PostgreSQL, without being able to change it.

Nothing here looks at the text of a query to decide whether it is harmless; the database does. SQLite opens the file for
reading and asks an authorizer about each thing a statement would do, in a process of its own that is killed when its
time is over (``ask_sqlite``). PostgreSQL runs the query in a read-only transaction that is rolled back, as the query of
a cursor, which only a query can be, and not as a superuser.
"""

import asyncio
import json
import math
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from pydantic import BaseModel

from tasks.errors import ToolFailed, ToolRefused

Value = str | int | float | bool | None

LONGEST_VALUE = 4000
"""Characters of one value; of longer ones the beginning is returned."""
LARGEST_ROW = 200_000
"""Characters of a row; a query with a larger one fails."""
LATE = 1.0
"""Seconds that SQLite may stop too late, before it is killed."""
BEGINS_WITHIN = 30.0
"""Seconds that its process may take to begin; it takes a twentieth of one on an idle machine."""
LONGEST_QUERY = 20_000
LONGEST_ANSWER = 100_000_000
"""Bytes of what the process answers, all rows together."""
PROGRAM = Path(__file__).with_name("ask_sqlite.py")

_SUPERUSER = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolsuper AND pg_has_role(session_user, oid, 'MEMBER'))"


class Rows(BaseModel):
    """What a query found. ``cut``: there were more rows, or a value was longer, than is returned."""

    columns: list[str]
    rows: list[list[Value]]
    cut: bool = False


async def query_database(
    sql: str, *, url: str, most_rows: int = 100, most_characters: int = 40_000, seconds: float = 10.0
) -> Rows:
    """The rows of one SELECT.

    ``url``: ``sqlite:///file`` or ``postgresql://user:password@host/database``; that user should have no more than the
    right to read what may be seen, and do nothing else there. ``most_rows`` and ``most_characters``: how much is
    returned; ``seconds``: how long it may take. Dates and the like come as text, bytes as hexadecimal.
    Raises ToolRefused (it is not one SELECT, or does what may not be done) or ToolFailed (the database said no).
    """
    if not sql.strip("; \t\n") or len(sql) > LONGEST_QUERY or "\0" in sql:
        raise ToolRefused(sql.strip() or "an empty query", f"a query has 1 to {LONGEST_QUERY} characters")
    sql = sql.strip().rstrip("; \t\n")
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/"):
        columns, found = await _ask_sqlite(sql, Path(rest[1:]), most_rows + 1, most_characters, seconds)
    elif scheme in ("postgresql", "postgres"):
        columns, found = await _ask_postgres(sql, url, most_rows + 1, seconds)
    else:
        raise ToolFailed("the database", "its address is none of SQLite or PostgreSQL", "Correct it in the block.")
    rows: list[list[Value]] = []
    room, cut = most_characters, len(found) > most_rows
    for row in found[:most_rows]:
        plain = [_plain(value) for value in row]
        short = [value[:LONGEST_VALUE] if isinstance(value, str) else value for value in plain]
        room -= sum(len(str(value)) + 2 for value in short)
        if room < 0 and rows:
            return Rows(columns=columns, rows=rows, cut=True)
        cut = cut or short != plain
        rows.append(short)
    return Rows(columns=columns, rows=rows, cut=cut)


async def _ask_sqlite(sql: str, file: Path, most: int, room: int, seconds: float) -> tuple[list[str], list[Any]]:
    bounds = {"most": most, "room": room, "longest": LONGEST_VALUE + 1, "largest": LARGEST_ROW, "seconds": seconds}
    found = await _in_own_process({"sql": sql, "file": str(file), **bounds})
    if found is None or found.get("said") == "interrupted":
        raise ToolFailed(sql, f"it took longer than {seconds:g} seconds", "Ask for less.")
    if (said := found.get("said")) is None:
        return found["columns"], found["rows"]
    if said == "it is not a query":
        raise ToolRefused(sql, said, "Give one SELECT.")
    if "not authorized" in said or "prohibited" in said or "one statement at a time" in said:
        raise ToolRefused(sql, f"only reading is allowed ({said})", "Give one SELECT.")
    if "unable to open" in said:
        raise ToolFailed("the database", f"it cannot be opened ({said})", "Do without it, and say so.")
    raise ToolFailed(sql, said, "Correct the query.")


async def _in_own_process(asked: dict[str, Any]) -> dict[str, Any] | None:
    """What ``ask_sqlite`` answers; None if it does not in time. Its process is over then, whatever it was at."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(PROGRAM), stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=LONGEST_ANSWER
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        async with asyncio.timeout(BEGINS_WITHIN):
            begun = await process.stdout.readline()
        if not begun:
            raise ToolFailed("the database", "the process that asks it did not begin", "Do without it, and say so.")
        async with asyncio.timeout(asked["seconds"] + LATE):
            answer = await process.stdout.readline()
    except TimeoutError:
        return None
    except ValueError:  # of a line that is longer than the limit
        raise ToolFailed("the database", f"its answer has more than {LONGEST_ANSWER} bytes", "Ask for less.") from None
    finally:
        process.stdin.close()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if not answer:
        raise ToolFailed("the database", "the process that asks it ended without an answer", "Ask for less.")
    found: dict[str, Any] = json.loads(answer)
    return found


async def _ask_postgres(sql: str, url: str, most: int, seconds: float) -> tuple[list[str], list[Any]]:
    try:
        async with asyncio.timeout(seconds + 5):  # the server's own limit comes first
            database = await _connect(url, seconds)
            try:
                return await _in_transaction(database, sql, most)
            finally:
                database.terminate()  # and with it whatever the query left: locks, settings
    except TimeoutError:
        raise ToolFailed(sql, f"it took longer than {seconds:g} seconds", "Ask for less.") from None
    except asyncpg.QueryCanceledError:
        raise ToolFailed(sql, f"it took longer than {seconds:g} seconds", "Ask for less.") from None
    except (asyncpg.ReadOnlySQLTransactionError, asyncpg.InsufficientPrivilegeError) as error:
        raise ToolRefused(sql, f"only reading is allowed ({error})", "Give one SELECT.") from None
    except asyncpg.PostgresError as error:
        raise ToolFailed(sql, str(error).splitlines()[0], "Correct the query: one SELECT.") from None
    except (OSError, asyncpg.InterfaceError) as error:
        raise ToolFailed("the database", f"the connection broke ({error})", "Try again later.") from None


async def _connect(url: str, seconds: float) -> Any:
    settings = {
        "default_transaction_read_only": "on",
        "statement_timeout": str(math.ceil(seconds * 1000)),
        "application_name": "standby query",
    }
    try:
        return await asyncpg.connect(url, timeout=seconds, server_settings=settings)
    # What they say is not repeated: they quote from the address, and of one that is oddly written perhaps the password.
    except (ValueError, OverflowError):
        raise ToolFailed("the database", "its address cannot be read", "Do without it, and say so.") from None
    except (OSError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
        said = type(error).__name__
        raise ToolFailed("the database", f"it cannot be reached ({said})", "Do without it, and say so.") from None


async def _in_transaction(database: Any, sql: str, most: int) -> tuple[list[str], list[list[Any]]]:
    if await database.fetchval(_SUPERUSER):
        raise ToolRefused(
            "the database",
            "the role in its address is a superuser, or a member of one, and may do more than read whatever the "
            "transaction says",
            "Give the tool a role that may only read.",
        )
    await database.execute("BEGIN READ ONLY")
    # Prepared, a text is one statement; and only a query can stand where these two put it.
    columns = [each.name for each in (await database.prepare(f"SELECT * FROM (\n{sql}\n) AS asked")).get_attributes()]
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise ToolRefused(sql, f"two columns are called {twice}", "Name them apart with AS.")
    wanted = f"SELECT left(row_to_json(asked)::text, {LARGEST_ROW + 1}) FROM (\n{sql}\n) AS asked"
    declare = await database.prepare(f"DECLARE asked NO SCROLL CURSOR FOR {wanted}")
    await declare.fetch()
    rows = await database.fetch(f"FETCH {most} FROM asked")
    if any(len(row[0]) > LARGEST_ROW for row in rows):
        raise ToolFailed(sql, f"a row has more than {LARGEST_ROW} characters", "Ask for fewer columns.")
    try:
        return columns, [[_flat(value) for value in json.loads(row[0]).values()] for row in rows]
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; JSON in JSON in JSON
        raise ToolFailed(sql, f"a value in it cannot be read ({error})", "Ask for a part of it, as text.") from None


def _flat(value: Any) -> Value:
    if isinstance(value, list | dict):
        return json.dumps(value)
    # JSON may say half a character, which can be told to nobody.
    flat: Value = value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
    return flat


def _plain(value: Any) -> Value:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
