"""A file that a host cannot load."""

import sys

from standby import agent


@agent
async def never() -> None:
    """It is never begun."""


sys.exit(7)
