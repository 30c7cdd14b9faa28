"""FastAPI dependencies: what of a request is refused before it is read as what it should be."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import Path, Request

from standby.gateway.names import Name, shallow
from standby.gateway.refusals import EMPTY, Refused


async def topic_of(request: Request, topic: Annotated[Name, Path()]) -> str:
    """The topic in the path. Raises ``Refused`` for one that is not UTF-8.

    What is not is decoded with a mark in the place of each wrong byte, so that different topics would become one.
    """
    try:
        unquote_to_bytes(request.scope["raw_path"]).decode()
    except UnicodeDecodeError:
        raise Refused(422, "The request does not fit.", [("path.topic", "it is not UTF-8")]) from None
    return topic


async def some_body(request: Request) -> None:
    """For what takes any JSON, null among it. Raises ``Refused`` where there is none."""
    if not (await request.body()).strip():
        raise Refused(422, "The request does not fit.", [("body", EMPTY)])


async def shallow_body(request: Request) -> None:
    """For what takes JSON. Raises ``Refused``."""
    try:
        shallow(await request.body())
    except ValueError as error:
        raise Refused(422, "The request does not fit.", [("body", str(error))]) from None
