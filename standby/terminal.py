"""What all commands of the terminal share: output, errors as sentences, and the ledger of this place."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from standby import settings
from standby.connect import SLOW, Place, here
from standby.errors import StandbyError, UsageError
from standby.gateway.names import LONGEST_NAME, storable
from standby.ledger import Ledger
from standby.tables import plain

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# Into a pipe or a file tables go by ``tables.print_table``, and Markdown is so wide.
out = Console(soft_wrap=True, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


@asynccontextmanager
async def open_ledger() -> AsyncIterator[tuple[Ledger, Place]]:
    place = await here()
    ledger = await Ledger.connect(place.ledger_url)
    try:
        yield ledger, place
    finally:
        await ledger.close()


def perform(work: Coroutine[Any, Any, int], as_json: bool = False, *, serves: bool = False) -> None:
    """Run a command. What is wrong with the request or the world is one sentence, and exit code 1.

    With ``as_json`` the sentence is ``{"error": ...}`` on standard output. ``serves``: it goes on for long.
    """
    wrong = None
    try:
        with asyncio.Runner(loop_factory=_fast_loop() if serves else None) as runner:
            code = runner.run(work)
    except httpx.HTTPError as error:
        wrong = no_answer(error)
    except (StandbyError, OSError) as error:
        wrong = str(error)
    except UnicodeEncodeError:
        wrong = "An argument is not text: it has bytes that are no UTF-8."
    except KeyboardInterrupt:
        code = 130
    if wrong is not None:
        code = 1
        if as_json:
            print(json.dumps({"error": wrong}))
        else:
            err.print(f"[red]{escaped(wrong)}[/red]")
    raise typer.Exit(code)


def no_answer(error: httpx.HTTPError) -> str:
    """That Prefect could not be asked: where, why, and what to do."""
    told = os.environ.get("PREFECT_API_URL")
    at = told or settings.running().get("api_url")
    whose = f"The Prefect server{f' at {at}' if at else ''}"
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return f"{whose} {SLOW}"
    remedy = "Start it, or correct PREFECT_API_URL." if told else "Start it with `standby up`, or set PREFECT_API_URL."
    return f"{whose} cannot be asked: {str(error) or type(error).__name__}. {remedy}"


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """An event loop that takes less processor time, where there is one."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


@contextmanager
def own_words() -> Iterator[None]:
    """No warnings of the library's beside a command's sentence, which says the same."""
    library = logging.getLogger("standby")
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library.setLevel(level)


def name_of(text: str, what: str) -> str:
    """A name as every door takes it. Raises ``UsageError`` saying ``what`` it is of."""
    try:
        storable(text)
    except ValueError as error:
        raise UsageError(f"{what} cannot be stored: {error}.") from None
    if not 0 < len(text) <= LONGEST_NAME:
        raise UsageError(f"{what} has {len(text)} characters. It takes 1 to {LONGEST_NAME}.")
    return text


def tell(as_json: bool, data: dict[str, Any], sentence: str) -> None:
    if as_json:
        print(json.dumps(data))
    else:
        out.print(escaped(sentence))


def escaped(text: str) -> str:
    """Text from elsewhere, with nothing in it that the terminal or rich would obey."""
    return escape(plain(text))
