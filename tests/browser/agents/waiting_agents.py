"""Agents that stop at one gate, and return what they were let through with."""

from datetime import timedelta

from pydantic import BaseModel

from standby import Signal, Timer, agent, wait_for


class Release(BaseModel):
    by: str
    urgent: bool


@agent
async def waits_for_time() -> str:
    await wait_for(Timer(timedelta(hours=1)))
    return "passed"


@agent
async def waits_for_message() -> str:
    release = await wait_for(Signal("release", key="4711", of=Release, party="warehouse"))
    return f"released by {release.by}"
