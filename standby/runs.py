"""An agent run as its code sees it: the attempt that has it, its journal, and where in the journal it is.

Keys. A step's key is its name, with ``#2``, ``#3`` ... for later occurrences, or an explicit one. Steps and waits that
are called in the agent's own asyncio task also have a position, counted when they are called. On a replay the journal
must hold the same key at the same position; anything else is a ``JournalMismatch`` before the step acts. Calls from
other asyncio tasks (racing branches) have no stable order: they need explicit keys and are found by key alone. What is
called in a ``part`` of the run, such as a tool of a model, has keys below the part's, counted there, and no position.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import cached_property
from typing import Any, NoReturn, TypeVar

from standby import clock, settings
from standby.caught import Failures
from standby.checkpoints import CheckpointStore
from standby.errors import (
    CheckpointDamaged,
    CheckpointNotWritten,
    JournalMismatch,
    LedgerUnavailable,
    UsageError,
)
from standby.faults import reach
from standby.hold import Asked, chosen
from standby.hosting import Hosting
from standby.interrupts import Ending
from standby.ledger import Ledger
from standby.ledger.checkpoints import Entry
from standby.ledger.text import digest_of
from standby.parts import counted, current_part
from standby.places import Place
from standby.states import CheckpointKind, CheckpointState, Hold
from standby.stops import Away, Fenced, Left, Over
from standby.threads import Threads
from standby.values import Codec

log = logging.getLogger("standby.runs")

E = TypeVar("E", bound=BaseException)
R = TypeVar("R")

CUT_OFF = '"cut off"'
"""What stands in the journal for a step that a cancellation cut off, and that the agent did without."""

_CUT_OFF_DIGEST = digest_of(CUT_OFF)

WRITTEN_AGAIN_AFTER = (0.1, 0.5, 2.0)
"""Seconds until a checkpoint is written again that could not be: one connection that broke is no reason to stop."""

current_run: ContextVar[AgentRun | None] = ContextVar("standby_run", default=None)


class AgentRun:
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
        self.id = run_id
        self.attempt = attempt
        self.hold = hold
        self.asked: Asked | None = None  # by @agent(hold=...)
        self.deployed = True
        self.began_in: str | None = None  # id of the state that Prefect had it in when this attempt began
        self.ledger = ledger
        self.store = store
        self.journal = {entry.key: entry for entry in journal}
        self.ask_outcome: Callable[[str, int, Codec[Any]], Awaitable[str | None]] | None = None  # set by ``agent``
        self._at = {entry.position: entry.key for entry in journal if entry.position is not None}
        self._unmet_branches = {entry.key for entry in journal if entry.position is None and not _may_stay_away(entry)}
        self._at_cut_off = 0  # branches that stand where they were cut off
        self._meet("")
        self._used: set[str] = set()
        self._questions: dict[str, list[str]] = {}
        for entry in journal:
            self._ask_with(entry.key)
        self.sure_at = sure_at
        self.failures = Failures()
        self._recording = asyncio.Lock()  # of failures: who comes second waits until they are
        self._occurrences: Counter[str] = Counter()
        self._next = 0
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self.hosting: Hosting | None = None
        self.lingering = False  # parked warm: the host's lease stands for its own
        self.threads = Threads()
        self.host_ends = False  # it goes no further than its next checkpoint
        self.at = ""  # key of the step or wait that was asked for last
        self.fenced = False
        self.over = False  # the agent's function has returned or raised
        self._stopped_by: BaseException | None = None
        self.paused_seconds = 0.0  # that this attempt has waited in its process
        self.leaving: dict[str, Callable[[], Awaitable[None]]] = {}  # called before a park and at the end
        self.waking: dict[str, Callable[[], Awaitable[None]]] = {}  # called after it has waited in its process
        self._woken_at = 0.0  # how long it had waited when these were called last
        self._waking = False

    @cached_property
    def _branches_met(self) -> asyncio.Event:
        return asyncio.Event()  # few need it, and it takes a kilobyte of each run that is parked warm

    @cached_property
    def _own_met(self) -> asyncio.Event:
        """The agent's own task has come by all that it has done before."""
        return asyncio.Event()

    async def leave(self) -> None:
        """The attempt parks or ends: do what is to be done then. What fails there must not fail the run."""
        for name, work in self.leaving.items():
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

    def again(self, prefix: str, journal: list[Entry]) -> None:
        """What has keys below ``prefix`` is gone through again in this attempt, from ``journal``, as it is by now."""
        for key in [key for key in self._used if key.startswith(prefix)]:
            self._used.discard(key)
        self.failures.forget(prefix)
        for entry in journal:
            if entry.key.startswith(prefix):
                self.journal[entry.key] = entry
                self._ask_with(entry.key)

    def _ask_with(self, key: str) -> None:
        """Questions whether a `once` step happened hang on their step and have no place of their own."""
        step, mark, _ = key.partition("?")
        if mark and key not in self._questions.setdefault(step, []):
            self._questions[step].append(key)

    def hold_for(self, asked: Asked | None) -> Hold:
        """How the run is held while it waits for something: as ``asked`` there, else as all its waits."""
        return self.hold if asked is None else chosen(asked, deployed=self.deployed, hosted=self.hosting is not None)

    @property
    def leaves(self) -> bool:
        """Whether it goes no further than its next checkpoint: its host ends, or outside of one its process."""
        return self.host_ends or (self.ending is not None and self.ending.has_begun)

    def must_stop(self, error: E) -> E:
        """Remember an error after which the run must do nothing more. Returns it, to be raised."""
        self._stopped_by = error
        return error

    def _mismatch(self, detail: str) -> JournalMismatch:
        return self.must_stop(JournalMismatch(self.id, detail))

    def place(self, name: str, key: str | None = None, kind: CheckpointKind = CheckpointKind.STEP) -> Place:
        """Give the next step or wait its key and position. Raises ``JournalMismatch`` if the journal differs here.

        After an error that says the run must stop, it is raised again: an agent that caught it does not go on.
        """
        if self._stopped_by is not None:
            raise self._stopped_by
        self.failures.go_on()
        inside = current_part.get()
        in_own_task = self.in_own_task and inside is None
        if inside is not None:
            inside.check()
            key = f"{inside.key}/{key or counted(name, inside.occurrences)}"
        if key is None:
            if not in_own_task:
                raise UsageError(
                    f"{name!r} was called in an asyncio task beside the agent's own, where the order of calls can "
                    f"change from one attempt to the next. Give it a key: {name}.with_options(key=...)."
                )
            key = counted(name, self._occurrences)
        if key in self._used:
            raise UsageError(f"The key {key!r} is used twice in this run. Explicit keys must differ.")
        self._used.add(key)
        self.at = key
        self._meet(key)
        for question in self._questions.get(key, ()):
            self._used.add(question)
            self._meet(question)
        known = self.journal.get(key)
        if known is not None and known.kind != kind:
            raise self._mismatch(f"the journal has {key!r} as a {known.kind}, the code asks for a {kind}")
        if not in_own_task:
            if known is not None and known.position is not None:
                raise self._mismatch(f"{key!r} has moved into a racing branch")
            return Place(key, None)
        position, self._next = self._next, self._next + 1
        if not self._own_left:
            self._own_met.set()
        recorded = self._at.get(position)
        if recorded is not None and recorded != key:
            raise self._mismatch(f"the journal has {recorded!r} as step {position + 1}, the code asks for {key!r}")
        if known is not None and known.position != position:
            where = "in a racing branch" if known.position is None else f"as step {known.position + 1}"
            raise self._mismatch(f"the journal has {key!r} {where}, the code asks for it as {position + 1}")
        return Place(key, position)

    def take_over(self, prefix: str) -> dict[str, Entry]:
        """All entries whose keys begin with ``prefix``, by the rest of the key: whoever asks answers for them.

        Those that a ``part`` below wrote (there is another ``/`` in the rest) must still be asked for.
        """
        taken = {key.removeprefix(prefix): entry for key, entry in self.journal.items() if key.startswith(prefix)}
        for rest in taken:
            if "/" not in rest:
                self.pass_by(prefix + rest)
        return taken

    def pass_by(self, key: str) -> None:
        """An entry of the journal that need not be asked for."""
        self._used.add(key)
        self._meet(key)

    def set_aside(self, key: str) -> None:
        """An entry of the journal that is asked for after what comes now, or is then passed by."""
        self._meet(key)

    def unmet(self, prefix: str) -> list[Entry]:
        """The entries whose keys begin with ``prefix`` and that nobody has asked for yet."""
        return [entry for key, entry in self.journal.items() if key.startswith(prefix) and key not in self._used]

    @property
    def _own_left(self) -> bool:
        """Whether the agent's own task has yet to come by something that it has done before."""
        return bool(self._at) and self._next <= max(self._at)

    def _meet(self, key: str) -> None:
        self._unmet_branches.discard(key)
        if not self._unmet_branches:
            self._branches_met.set()

    async def before_new_work(self, key: str) -> None:
        """Called before anything that is not in the journal: by now racing branches must have met their own steps."""
        if self.fenced:
            raise Fenced(self.id, self.attempt)
        if self.leaves:
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

    async def _record_failures(self) -> None:
        """Before new work: errors that have evidently been caught are part of the path."""
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
            for failure in [failure for failure in self.failures.unrecorded if failure.caught]:
                if failure.of_wait:
                    await self._consume_failed(failure.place, failure.text or "")
                else:
                    if failure.recording is not None:
                        await asyncio.shield(failure.recording)  # of the value, which the agent goes on without
                    value, spill, digest = await self.store.keep(CUT_OFF if failure.text is None else failure.text)
                    failed = CheckpointState.FAILED
                    await self._write(failure.place, failed, value=value, spill=spill, digest=digest)
                self.failures.were_recorded(failure)

    async def take_back_failures(self, error: BaseException) -> None:
        """The run ends by ``error``: the failures of steps that have come to this are recorded no more, and a retry
        tries those steps again."""
        if self._stopped_by is not None:
            return  # it has not come by its own way to its end
        for failure in self.failures.ended_by(error):
            key, intended = failure.place.key, failure.intended
            await self.ledger.checkpoints.take_back_failure(self.id, self.attempt, key, intended=intended)

    def check_all_met(self) -> None:
        """At the end of the run: every checkpoint must have been asked for."""
        if self._stopped_by is not None:
            raise self._stopped_by
        unmet = [key for key, entry in self.journal.items() if key not in self._used and not _may_stay_away(entry)]
        if unmet:
            raise self._mismatch(f"the code ends without asking for {unmet}")

    @property
    def in_own_task(self) -> bool:
        """Whether the caller is in the agent's own asyncio task, not in a racing branch."""
        return asyncio.current_task() is self._task

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


def _may_stay_away(entry: Entry) -> bool:
    """A branch that lost a race may lose it earlier on a replay, before it comes to where it was cut off."""
    cut_off = entry.state == CheckpointState.FAILED and entry.digest == _CUT_OFF_DIGEST
    return cut_off and entry.position is None
