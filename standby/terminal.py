"""What all commands of the terminal share: output, errors as sentences, and the ledger of this place."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from standby.connect import Place, here
from standby.errors import StandbyError
from standby.ledger import Ledger
from standby.tables import plain

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# Into a pipe or a file a table is as wide as it wants to be.
out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, soft_wrap=True, highlight=False)


@asynccontextmanager
async def open_ledger() -> AsyncIterator[tuple[Ledger, Place]]:
    place = await here()
    ledger = await Ledger.connect(place.ledger_url)
    try:
        yield ledger, place
    finally:
        await ledger.close()


def perform(work: Coroutine[Any, Any, int]) -> None:
    """Run a command. What is wrong with the request or the world is one sentence, and exit code 1."""
    try:
        code = asyncio.run(work)
    except httpx.HTTPError as error:
        err.print(f"[red]The Prefect server cannot be reached: {escaped(str(error) or type(error).__name__)}.[/red]")
        code = 1
    except (StandbyError, OSError) as error:
        err.print(f"[red]{escaped(str(error))}[/red]")
        code = 1
    except UnicodeEncodeError:
        err.print("[red]An argument is not text: it has bytes that are no UTF-8.[/red]")
        code = 1
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)


def tell(as_json: bool, data: dict[str, Any], sentence: str) -> None:
    if as_json:
        print(json.dumps(data))
    else:
        out.print(escaped(sentence))


def escaped(text: str) -> str:
    """Text from elsewhere, with nothing in it that the terminal or rich would obey."""
    return escape(plain(text))
