"""What is another each time it is asked for, as steps: the time, and chance."""

from __future__ import annotations

import random as _random
import uuid as _uuid
from datetime import datetime

from standby import clock
from standby.steps import step


@step(visible=False)
async def now() -> datetime:
    """The time now, UTC; the same on every replay of the run."""
    return clock.utcnow()


@step(visible=False)
async def uuid() -> _uuid.UUID:
    """A random UUID; the same on every replay of the run."""
    return _uuid.uuid4()


@step(visible=False)
async def random() -> float:
    """A random number from 0 to 1, 1 excluded; the same on every replay of the run."""
    return _random.random()
