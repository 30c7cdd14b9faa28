"""The work that is measured: the same small step as Standby's visible and invisible step and as a stock Prefect task.

It does nothing and returns a small model, so what is timed is the machinery. The stock task is what its documentation
shows: persisted, default cache policy (inputs, source, run id), default storage (a local folder), default serializer.
"""

from __future__ import annotations

from prefect import task
from pydantic import BaseModel

from standby import step


class Reading(BaseModel):
    number: int
    place: str
    level: float


def _read(number: int) -> Reading:
    return Reading(number=number, place="north gate", level=number / 7)


@step
async def visible(number: int) -> Reading:
    return _read(number)


@step(visible=False)
async def invisible(number: int) -> Reading:
    return _read(number)


@task(persist_result=True)
async def stock(number: int) -> Reading:
    return _read(number)
