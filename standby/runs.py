"""An agent run as its code sees it: the attempt that has it, what it may still do, and what it writes down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, NoReturn

from standby import clock, settings
from standby.acting import Acting
from standby.checkpoints import CheckpointStore
from standby.errors import CheckpointDamaged, CheckpointNotWritten, LedgerUnavailable
from standby.faults import reach
from standby.hold import Asked, chosen
from standby.hosting import Hosting
from standby.interrupts import Ending
from standby.journal import CUT_OFF, Journal
from standby.ledger import Ledger
from standby.ledger.checkpoints import Entry
from standby.ledger.text import digest_of
from standby.places import Place
from standby.states import CheckpointState, Hold
from standby.stops import Away, Fenced, Left, Over
from standby.threads import Threads
from standby.values import Codec

log = logging.getLogger("standby.runs")

WRITTEN_AGAIN_AFTER = (0.1, 0.5, 2.0)
"""Seconds until a checkpoint is written again that could not be: one connection that broke is no reason to stop."""

current_run: ContextVar[AgentRun | None] = ContextVar("standby_run", default=None)


class AgentRun(Journal):
    """The run of the agent that is executing, bound to one attempt. Steps and waits go through it.

    ``sure_at``: when its lease was last asked for (``clock.elapsed``) and given; for so long it is sure of the run.
    ``ending``: of its process, outside of a host.
    """

    ending: Ending | None = None

    def __init__(
        self,
        run_id: str,
        attempt: int,
        hold: Hold,
        ledger: Ledger,
        store: CheckpointStore,
        journal: list[Entry],
        *,
        sure_at: float,
    ) -> None:
        super().__init__(run_id, journal)
        self.attempt = attempt
        self.hold = hold
        self.asked: Asked | None = None  # by @agent(hold=...)
        self.deployed = True
        self.began_in: str | None = None  # id of the state that Prefect had it in when this attempt began
        self.ledger = ledger
        self.store = store
        self.ask_outcome: Callable[[str, int, Codec[Any]], Awaitable[str | None]] | None = None  # set by ``agent``
        self._at_cut_off = 0  # branches that stand where they were cut off
        self.sure_at = sure_at
        self._recording = asyncio.Lock()  # of failures: who comes second waits until they are
        self._loop = asyncio.get_running_loop()
        self.hosting: Hosting | None = None
        self.lingering = False  # parked warm: the host's lease stands for its own
        self.threads = Threads()
        self.acting = Acting()
        self.host_ends = False  # it goes no further than its next checkpoint
        self.fenced = False
        self.over = False  # the agent's function has returned or raised
        self.error: str | None = None  # what it raised, before the run fails by that
        self.paused_seconds = 0.0  # that this attempt has waited in its process
        self.leaving: dict[str, Callable[[], Awaitable[None]]] = {}  # called before a park and at the end
        self.waking: dict[str, Callable[[], Awaitable[None]]] = {}  # called after it has waited in its process
        self._woken_at = 0.0  # how long it had waited when these were called last
        self._waking = False

    async def leave(self) -> None:
        """The attempt parks or ends: do what is to be done then, for what began last first. What fails there must not
        fail the run."""
        for name, work in reversed(self.leaving.items()):
            try:
                await work()
            except Exception as error:
                log.warning("The %s of run %s was not written: %s", name, self.id, error or type(error).__name__)

    async def ends(self) -> None:
        """The agent's function is done. Return when no step acts in a thread: one retried would act beside itself."""
        try:
            async with asyncio.timeout(settings.STOPPED_WITHIN.total_seconds()):
                await self.threads.none(but_given_up=True)
        except TimeoutError:
            log.warning("Run %s has come to its end, and ends when a step in a thread is done.", self.id)
            await self.threads.none(but_given_up=True)

    async def wake(self) -> None:
        """The run has waited in its process: what may have changed meanwhile is looked at, before its code goes on."""
        if self._waking:
            return  # what looks has waited itself: all is looked at again
        self._waking = True
        try:
            while (waited := self.paused_seconds) != self._woken_at:
                for look in list(self.waking.values()):
                    await look()
                self._woken_at = waited
        finally:
            self._waking = False

    def hold_for(self, asked: Asked | None) -> Hold:
        """How the run is held while it waits for something: as ``asked`` there, else as all its waits."""
        return self.hold if asked is None else chosen(asked, deployed=self.deployed, hosted=self.hosting is not None)

    @property
    def leaves(self) -> bool:
        """Whether it goes no further than its next checkpoint: its host ends, or outside of one its process."""
        return self.host_ends or (self.ending is not None and self.ending.has_begun)

    async def before_new_work(self, key: str) -> None:
        """Called before anything that is not in the journal: by now racing branches must have met their own steps."""
        if self.fenced:
            raise Fenced(self.id, self.attempt)
        if self.leaves:
            if not self.acting.acts(key):
                await self.lets_end()  # a TaskGroup would cut off what is under way beside this
            raise Left(self.id)
        if self.over:
            raise Over(self.id)
        if self._stopped_by is not None:
            raise self._stopped_by
        await self._record_failures()
        while self._unmet_branches:
            stood = self._at_cut_off  # one that goes on meanwhile has its time from then on
            try:
                async with asyncio.timeout(settings.BRANCH_GRACE.total_seconds()):
                    await self._branches_met.wait()
            except TimeoutError:
                unmet = sorted(self._unmet_branches)
                if not unmet:  # met in the same moment
                    break
                if not (stood or self._at_cut_off):
                    raise self._mismatch(f"the code comes to {key!r} and has not asked for {unmet}") from None
                log.warning("Run %s comes to %r when what was cut off is so again, and %s met.", self.id, key, unmet)
        if self._own_left and not self.in_own_task:
            # The agent has gone on without this before: what took it that way may cut this branch off.
            with suppress(TimeoutError):
                async with asyncio.timeout(settings.OWN_GRACE.total_seconds()):
                    await self._own_met.wait()
            if self.over:
                raise Over(self.id)
        if self.acting.held_back and not self.in_own_task and not self.acting.acts(key):
            await self.acting.let_on()
            await self.before_new_work(key)

    async def lets_end(self) -> None:
        """What acts beside comes to its end, before the end of this attempt cuts it off: in a host, which cuts all off
        after its grace, else within ``STOPPED_WITHIN``."""
        await self.acting.none(within=None if self.hosting else settings.STOPPED_WITHIN.total_seconds())

    async def be_sure(self) -> None:
        """An attempt that may have lost its lease meanwhile, because its process or its machine was frozen, asks before
        it acts whether the run is still its own."""
        now = clock.elapsed()
        # For so long nobody takes it for dead, whatever their clock says (``keeper``).
        if now - self.sure_at < 2 * settings.RENEW_EVERY.total_seconds():
            return
        try:
            mine = await self.ledger.runs.renew(self.id, self.attempt, settings.LEASE)
        except LedgerUnavailable as error:
            raise self.must_stop(Away(self.id, error)) from error
        if not mine:
            self.stop()
        self.sure_at = now

    async def be_cut_off(self, key: str) -> NoReturn:
        """Stand where an earlier attempt was cut off, until this one is cut off there, too."""
        log.info("Step %s was cut off, and will be again: it is not tried.", key)
        self._at_cut_off += 1
        try:
            await asyncio.sleep(settings.CUT_OFF_GRACE.total_seconds())
            log.warning(
                "Run %s stands at step %r, which was cut off before and has not been again. If the code has changed so "
                "that it never is, the run cannot go on: cancel it, or bring the old code back.", self.id, key,
            )  # fmt: skip
            while True:
                await asyncio.Event().wait()
        finally:
            self._at_cut_off -= 1

    @property
    def failed_wait(self) -> str | None:
        """The key of the wait whose error the agent has not gone on from, if there is one."""
        return next((failure.place.key for failure in self.failures.unrecorded if failure.of_wait), None)

    def failed_step(self, error: str) -> str | None:
        """The key of the step that raised this error (as JSON), if it was a step."""
        return next((one.place.key for one in self.failures.known if not one.of_wait and one.text == error), None)

    async def before_a_park(self) -> None:
        """What steps beside the own task have raised is part of the path, whether it has been caught by now or not: the
        next attempt raises it again where they are called."""
        await self._record_failures(raised=True)

    async def _record_failures(self, *, raised: bool = False) -> None:
        """Before new work: errors that have evidently been caught are part of the path; or all that were ``raised``."""
        if not self.failures.unrecorded:
            return
        if not self.in_own_task:
            # An error in a task beside this one may be on its way to end the agent: let it arrive.
            for _ in range(5):
                await asyncio.sleep(0)
            if self.over:
                await asyncio.Event().wait()
        async with self._recording:
            self.failures.go_on()
            for failure in [one for one in self.failures.unrecorded if one.caught or (raised and one.text is not None)]:
                if failure.of_wait:
                    await self._consume_failed(failure.place, failure.text or "")
                else:
                    if failure.recording is not None:
                        await asyncio.shield(failure.recording)  # of the value, which the agent goes on without
                    value, spill, digest = await self.store.keep(CUT_OFF if failure.text is None else failure.text)
                    failed = CheckpointState.FAILED
                    await self._write(failure.place, failed, value=value, spill=spill, digest=digest)
                self.failures.were_recorded(failure)

    async def take_back(self, key: str) -> None:
        """A step that has failed is called again, by what has caught that before the agent has: that it failed is no
        part of the path."""
        async with self._recording:
            self.failures.forget(key)
            await self.ledger.checkpoints.take_back_failure(self.id, self.attempt, key, intended=False)
            if (entry := self.journal.get(key)) is not None and entry.state == CheckpointState.FAILED:
                del self.journal[key]

    async def take_back_failures(self, error: BaseException) -> None:
        """The run ends by ``error``: the failures of steps that have come to this are recorded no more, and a retry
        tries those steps again."""
        if self._stopped_by is not None:
            return  # it has not come by its own way to its end
        for failure in self.failures.ended_by(error):
            key, intended = failure.place.key, failure.intended
            await self.ledger.checkpoints.take_back_failure(self.id, self.attempt, key, intended=intended)

    async def text_of(self, entry: Entry) -> str:
        """The JSON text of a recorded checkpoint. Raises ``CheckpointDamaged``."""
        try:
            return await self.store.text_of(entry)
        except ValueError as error:
            raise self.must_stop(CheckpointDamaged(self.id, entry.key, error)) from error

    async def intend(self, place: Place) -> None:
        """Record that a ``once`` step is about to act."""
        await self._write(place, CheckpointState.INTENDED)

    async def record(self, place: Place, text: str) -> None:
        """Record a step's value. Raises ``Fenced``, or ``CheckpointNotWritten`` when the ledger cannot take it."""
        try:
            value, spill, digest = await self.store.keep(text)
        except Exception as error:
            raise self.must_stop(CheckpointNotWritten(self.id, place.key, error)) from error
        await self._write(place, CheckpointState.RECORDED, value=value, spill=spill, digest=digest)

    async def _write(self, place: Place, state: CheckpointState, **fields: Any) -> None:
        async def write() -> bool:
            return await self.ledger.checkpoints.write(
                self.id, self.attempt, place.key, place.position, state, **fields
            )

        await self._surely(write, place, state, fields.get("digest"))

    async def record_failed_waits(self) -> None:
        """The agent has returned, so it has dealt with their errors: a run that has completed leaves nothing open."""
        for failure in [failure for failure in self.failures.unrecorded if failure.of_wait]:
            await self._consume_failed(failure.place, failure.text or "")
            self.failures.were_recorded(failure)

    async def _consume_failed(self, place: Place, text: str) -> None:
        digest = digest_of(text)

        async def write() -> bool:
            return await self.ledger.waits.consume(self.id, self.attempt, place.key, text, digest)

        await self._surely(write, place, CheckpointState.RECORDED, digest)
        reach("wait.consumed")

    async def _surely(
        self, write: Callable[[], Awaitable[bool]], place: Place, state: CheckpointState, digest: str | None
    ) -> None:
        """Write a checkpoint, again where the ledger does not answer. Raises as ``record``."""
        for pause in (*WRITTEN_AGAIN_AFTER, None):
            try:
                written = await write() or await self._has_written(place, state, digest)
                break
            except LedgerUnavailable as error:
                if pause is None:
                    raise self.must_stop(CheckpointNotWritten(self.id, place.key, error)) from error
                await asyncio.sleep(pause)
            except Exception as error:
                raise self.must_stop(CheckpointNotWritten(self.id, place.key, error)) from error
        if not written:
            self.stop()

    async def _has_written(self, place: Place, state: CheckpointState, digest: str | None) -> bool:
        """Whether this attempt, which has the run, wrote it before, by a try whose answer was lost."""
        there, row = await self.ledger.checkpoints.find(self.id, place.key), await self.ledger.runs.get(self.id)
        if there is None or row is None or not (there.attempt == row.attempt == self.attempt):
            return False
        return (there.state, there.digest) == (state, digest)

    def stop(self) -> None:
        """A fenced write was refused: raise ``Fenced``."""
        self.fenced = True
        raise Fenced(self.id, self.attempt)

    def fence(self) -> None:
        """Called from the pulse's thread when the lease is another attempt's: stop the agent where it is."""

        def cancel() -> None:
            self.fenced = True
            if self._task is not None:
                self._task.cancel("fenced")
            if self.hosting is not None:
                self.hosting.lost()

        self._loop.call_soon_threadsafe(cancel)
