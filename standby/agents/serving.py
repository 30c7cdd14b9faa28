"""The agent's own task serves its thinking, which runs in a task beside it.

A model's tool calls run in tasks of their own, but a run waits as a whole, from its own task. So thinking hands what
has to wait, or to act once, to the own task, one after the other; where that parks the run, thinking ends with it.

A call that acts is not cut off by what the calls beside it come to: those that park the run wait for it (``waiting``),
and the error of one comes out when the others have come to their outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, nullcontext
from contextvars import Context, ContextVar, Token, copy_context
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from prefect.exceptions import Pause

from standby.errors import CheckpointNotWritten, LedgerUnavailable
from standby.runs import AgentRun, current_run
from standby.stops import Away, Left, met, stopped_without_ledger

T = TypeVar("T")

ERROR_SECONDS = 5.0
"""How long a run that is about to park waits for an error that is on its way to end the thinking, through hooks too."""


_call: ContextVar[str | None] = ContextVar("standby_call", default=None)
"""What the key begins with of the call of a tool that is under way here, beside the own task."""


class _Job(NamedTuple):
    work: Callable[[], Awaitable[Any]]
    done: asyncio.Future[Any]
    context: Context


class Serving:
    """Made in the own task. ``while_thinking`` runs there; ``here`` is called from anywhere in the thinking.

    ``below``: how the keys begin of all that is done for it.
    """

    def __init__(self, below: str = "") -> None:
        self.below = below
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._thinking: asyncio.Task[Any] | None = None
        self._ends = False  # whatever acts in the thinking is cut off
        self._failing: set[asyncio.Task[Any]] = set()  # in which the error of a job is on its way
        self.in_own_task: set[str] = set()  # names of tools

    @cached_property
    def _end(self) -> asyncio.Event:
        return asyncio.Event()  # few need it, and each agent that is parked warm has one of these

    async def here(self, work: Callable[[], Awaitable[T]]) -> T:
        """Have the own task do this, with the context variables of the caller; what it returns or raises."""
        job = _Job(work, asyncio.get_running_loop().create_future(), copy_context())
        self._jobs.put_nowait(job)
        run, below, task = current_run.get(), _call.get(), asyncio.current_task()
        assert task is not None
        self._failing.discard(task)
        try:
            with nullcontext() if run is None or below is None else run.acting.halted(below):
                result: T = await job.done
        except Exception:
            if task is not self._thinking:
                self._failing.add(task)
                task.add_done_callback(self._failing.discard)
            raise
        return result

    async def while_thinking(self, thinking: Coroutine[Any, Any, T]) -> T:
        """Think, and do meanwhile what it asks for. What ends the attempt ends the thinking, too."""
        task: asyncio.Task[T] = asyncio.create_task(thinking, name="thinking")
        self._thinking = task
        job: asyncio.Task[_Job] | None = None
        run = current_run.get()
        asking = run.acting.asking if run is not None else set()
        asking.add(task)
        with ExitStack() as held_back:
            try:
                while True:
                    job = job or asyncio.create_task(self._jobs.get())
                    await asyncio.wait({task, job}, return_when=asyncio.FIRST_COMPLETED)
                    if job.done():
                        await self._do(job.result(), run)
                        job = None
                    elif task.done():
                        return task.result()
            except BaseException as error:
                if run is not None and met(error, Pause, Left, Away) is not None:
                    # It goes on elsewhere, and there does not do again what is under way here.
                    held_back.enter_context(run.acting.holding_back())
                    await run.acting.none()
                raise
            finally:
                self._ends = True
                self._end.set()
                asking.discard(task)
                left = [one for one in (task, job) if one is not None]
                for one in left:
                    one.cancel()
                await asyncio.gather(*left, return_exceptions=True)

    async def to_its_outcome(self, call: Callable[[], Awaitable[T]], below: str) -> T:
        """Make a call of a tool that has its key below this. Where the error of another cuts it off while it acts, it
        comes to its outcome first; what ends the attempt, or cancels the thinking, cuts it off."""

        async def made() -> T:
            _call.set(below)
            return await call()

        run = current_run.get()
        with nullcontext() if run is None else run.acting.around(below):
            return await self._made(asyncio.create_task(made(), name=below), run, below)

    async def _made(self, task: asyncio.Task[T], run: AgentRun | None, below: str) -> T:
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            assert self._thinking is not None
            if run is not None and not self._ends and not self._thinking.cancelling():
                await _first(run.acting.none(below), self._end.wait())
            raise
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # nobody may ask for it
        return task.result()

    async def _do(self, job: _Job, run: AgentRun | None) -> None:
        """Do it, unless the thinking ends meanwhile: no run parks for that."""

        async def goes_on() -> None:
            assert run is not None
            await run.acting.all_out(self.below, within=ERROR_SECONDS)
            if self._failing:
                await asyncio.wait(self._failing, timeout=ERROR_SECONDS)
            for _ in range(20):  # from there it is on its way in pydantic-ai, which awaits nothing else
                await asyncio.sleep(0)
            assert self._thinking is not None
            if job.done.done():
                await asyncio.wait([self._thinking], timeout=ERROR_SECONDS)
            if self._thinking.done():
                raise _Over(self)

        if run is None:
            await _do(job)
            return
        name = f"thinking of {id(self)}"
        run.leaving[name] = goes_on
        try:
            await _do(job)
        except BaseException as error:
            over = met(error, _Over)
            if not isinstance(over, _Over) or over.serving is not self:
                raise
            assert self._thinking is not None
            if not self._thinking.cancelled() and ends_the_agent(self._thinking.exception()):
                await self.close_open(run)
        finally:
            del run.leaving[name]

    async def close_open(self, run: AgentRun) -> None:
        """The thinking has ended: close the waits that are open below it, for nobody takes their answers in.

        What has been answered stays so. An attempt that goes through all of it again opens them again.
        """
        with stopped_without_ledger(run.id):
            found = await run.ledger.waits.open_ones([run.id])
            for key in dict.fromkeys(wait.group_key for wait in found if wait.group_key.startswith(self.below)):
                if not await run.ledger.waits.close(run.id, run.attempt, key):
                    run.stop()


class _Over(BaseException):
    """The thinking has ended while a job of it was about to park the run."""

    def __init__(self, serving: Serving) -> None:
        super().__init__("The thinking has ended.")
        self.serving = serving


def ends_the_agent(error: BaseException | None) -> bool:
    """Whether an agent has ended whose thinking has come to this; else another attempt goes on where it was."""
    return error is None or (
        isinstance(error, Exception) and not isinstance(error, (CheckpointNotWritten, LedgerUnavailable))
    )


async def _first(*several: Coroutine[Any, Any, Any]) -> None:
    """Return when one of them does."""
    tasks = [asyncio.create_task(one) for one in several]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _do(job: _Job) -> None:
    if job.done.done():  # whoever asked has been cancelled since
        return
    tokens = _enter(job.context)
    try:
        result = await job.work()
    except Exception as error:
        if not job.done.done():
            job.done.set_exception(error)
    else:
        if not job.done.done():
            job.done.set_result(result)
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


def _enter(context: Context) -> list[tuple[ContextVar[Any], Token[Any]]]:
    here = copy_context()
    nothing = object()
    return [
        (variable, variable.set(value))
        for variable, value in context.items()
        if here.get(variable, nothing) is not value
    ]
