"""Loading a block that may not have been set up: the saved document if there is one, else the class's defaults."""

from typing import TypeVar

from prefect.blocks.core import Block
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

B = TypeVar("B", bound=Block)


async def load_or_default(block: type[B], name: str = "default") -> B:
    """The block document ``name`` of this type, else a block with default values.

    Only "there is no such document" leads to the defaults. A server that does not answer, or a document that does not
    fit, raises what Prefect raises: a limit somebody set is never replaced by ours because it could not be read.
    Outside a flow run and without a Prefect API address there is no server to ask, and none is started for it.
    """
    if FlowRunContext.get() is None and get_current_settings().api.url is None:
        return block()
    try:
        return await block.aload(name)
    except ValueError as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return block()
        raise
