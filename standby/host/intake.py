"""Taking up what is cold: each run once, whether the ledger or Prefect gives it, in its turn, and so many at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError

from standby import clock, holder, settings
from standby.confirming import CONFIRM_AFTER
from standby.errors import CodeNotLoaded, LedgerUnavailable, UsageError
from standby.host.ends import is_over
from standby.ledger.batches import Batches
from standby.ledger.runs import Claim
from standby.parking import is_resumed_from, is_retry, wake
from standby.projection import runs_of
from standby.pulse import pulse
from standby.states import ENDED, Hold, RunState

if TYPE_CHECKING:
    from standby.host.host import Host

log = logging.getLogger("standby.host")

AT_ONCE = 16
"""How many cold runs are on their way from the ledger to their first line at the same time."""


SAID = 1_000
"""Of so many runs it is remembered that it was said whose they are."""


class _Taken:
    """A run that is claimed and has no attempt yet: its code may take longer to load than a lease lasts."""

    lingering = False

    def __init__(self, run_id: str, claim: Claim) -> None:
        self.id, self.attempt, self.sure_at = run_id, claim.attempt, claim.asked_at

    def fence(self) -> None:
        """Nothing acts for it yet, and its attempt will see that it is another's."""


class Intake:
    def __init__(self, host: Host) -> None:
        self._host = host
        # Looks whether Prefect has the run scheduled.
        self.seek: Callable[[str], None] = lambda run_id: None
        self.beginning: set[str] = set()  # on their way to a guest, of whichever origin
        self.wanted: dict[str, None] = {}  # cold runs to take up, in the order they were heard of
        self._due: deque[str] = deque()  # of ``wanted``, those whose turn it is
        self._aside = False  # all of ``wanted`` have left their places in the queue to others
        self.apart: set[str] = set()  # deployments whose runs have processes of their own
        self._asked_again: set[str] = set()  # of ``beginning``, those that the other origin gave, too
        self._said: OrderedDict[str, str] = OrderedDict()  # whose runs are, of which it was said
        self._something = asyncio.Event()
        self._taking = asyncio.Semaphore(AT_ONCE)
        self._reads: Batches[str, FlowRun | None] = Batches(self._read)

    @property
    def is_aside(self) -> bool:
        """Whether nothing is taken up until Prefect has caught up."""
        return self._aside

    @property
    def unplaced(self) -> int:
        """How many of ``wanted`` wait for something else than their turn."""
        return len(self.wanted if self._aside else self._due)

    def want(self, run_ids: list[str]) -> None:
        """Take these cold runs up, each in its turn: its place is that of now."""
        if not self._host.open:
            return
        for run_id in run_ids:
            if run_id not in self._host.guests and run_id not in self.wanted:
                self.wanted[run_id] = None
                if not self._aside:
                    self._line_up(run_id)

    def _line_up(self, run_id: str) -> None:
        # In a bound pool it has its turn when Prefect's queue gives it, which it is only sent to.
        if self._host.bound or self._host.slots.ask(_turn_of(run_id), partial(self._is_due, run_id)):
            self._is_due(run_id)

    def _is_due(self, run_id: str) -> None:
        self._due.append(run_id)
        self._something.set()

    def _give_up_turns(self) -> None:
        for run_id in reversed(self.wanted):  # who waits before who is in, whose slot then goes to others at once
            self._host.slots.leave(_turn_of(run_id))
        self._due.clear()

    def stop(self) -> None:
        """The host ends: nothing more is taken up."""
        self._give_up_turns()
        self.wanted.clear()

    async def loop(self) -> None:
        while True:
            while self._due and self._host.open:
                if self._host.following.is_late:
                    await self._stand_aside()
                    continue
                await self._taking.acquire()
                if not self._due:
                    self._taking.release()
                    break
                run_id = self._due.popleft()
                del self.wanted[run_id]
                task = self._host.start(self.take_up(run_id))
                task.add_done_callback(lambda _: self._taking.release())
            await self._something.wait()
            self._something.clear()

    async def _stand_aside(self) -> None:
        """Until Prefect has caught up, without which nothing is taken up, who is warm need not wait behind these."""
        self._aside = True
        try:
            self._give_up_turns()
            await self._host.following.caught_up()
        finally:
            self._aside = False
            self._due.clear()
            for run_id in self.wanted:
                self._line_up(run_id)

    def enters(self, run_id: str) -> bool:
        """Whether the caller is to begin the run, and call ``entered`` afterwards: it has no guest, and nobody else is
        about to begin it. The ledger and Prefect may both give the same run."""
        if run_id in self._host.guests:
            return False
        if run_id in self.beginning:
            self._asked_again.add(run_id)
            return False
        self.beginning.add(run_id)
        return True

    def entered(self, run_id: str, *, begun: bool) -> None:
        """The run was begun or will not be: who was turned away meanwhile is then asked once more."""
        self.beginning.discard(run_id)
        again = run_id in self._asked_again
        self._asked_again.discard(run_id)
        if not begun and again and self._host.open:
            self.want([run_id])
            self.seek(run_id)

    async def is_anothers(self, flow_run: FlowRun) -> bool:
        """Whether a run that Prefect has scheduled is not for this host: somebody else who lives has it, and hears of
        it, too; or it has just ended, and Prefect, which shows it as woken, is still being told."""
        row = await self._host.ledger.hosted.whose(str(flow_run.id))
        if row is None:
            return False
        if RunState(row.state) in ENDED:
            being_told = not row.confirmed and not clock.is_over(row.ended_at, CONFIRM_AFTER)
            return being_told and not is_retry(flow_run.state_name)
        others = bool(row.alive) and row.holder != self._host.holder and not holder.is_dead(row.holder)
        if others and row.hold == Hold.WARM and row.limited and await self._has_no_slot_there(flow_run, row.attempt):
            log.info("Run %s was resumed and has no slot in the host that had it warm: it goes on here.", flow_run.name)
            return False
        if others:
            self._say_whose(flow_run, row.holder)
        return others

    async def _has_no_slot_there(self, flow_run: FlowRun, attempt: int) -> bool:
        """Whether a run that this attempt has warm elsewhere was resumed so long ago that it waits for a slot, as this
        host has. Else it may have gone on at once and parked again, which Prefect is told afterwards."""
        limited, resumed_at = self._host.slots.limit is not None, flow_run.next_scheduled_start_time
        if not limited or resumed_at is None or not clock.is_over(resumed_at, settings.ELSEWHERE):
            return False
        return await is_resumed_from(self._host.plain, flow_run.id, attempt)

    def _say_whose(self, flow_run: FlowRun, whose: str) -> None:
        """Once for each run and holder: it is looked at every few seconds."""
        run_id = str(flow_run.id)
        if self._said.pop(run_id, None) != whose:
            log.info("Run %s (%s) is another's, who lives: %s.", flow_run.name, run_id, whose)
        self._said[run_id] = whose
        if len(self._said) > SAID:
            self._said.popitem(last=False)

    async def take_up(self, run_id: str) -> None:
        """Claim a cold run in the ledger and begin an attempt here, when it is its turn."""
        turn, slots = _turn_of(run_id), self._host.slots
        if not self.enters(run_id):
            slots.leave(turn)
            return
        taken: tuple[Claim, Any] | None = None
        begun = within = False
        try:
            if self._host.bound:  # since it was heard of
                row = await self._host.ledger.runs.get(run_id)
                if row is not None and row.state == RunState.READY and row.holder is None:
                    await wake(self._host.plain, run_id)
                return
            await slots.enter(turn)
            slots.hand_over(turn, run_id)
            within = True
            if not self._host.open:
                return
            taken = await self._host.ledger.hosted.claim_ready(
                run_id, self._host.deployments, self._host.holder, settings.LEASE
            )
            if taken is None:
                return
            with pulse.holding(self._host.ledger_url, _Taken(run_id, taken[0])):
                flow_run = await self._reads.do(run_id)
                if flow_run is None:
                    log.warning("Run %s is not on the Prefect server.", run_id)
                    return
                if is_over(flow_run.state):
                    return
                placement = await self._host.placing.of(flow_run)
            if placement.flow is None:
                log.info("Run %s has a process of its own: %s.", flow_run.name, placement.why)
                await self._does_without(str(flow_run.deployment_id))
            elif self._host.open:
                self._host.begin(flow_run, placement.flow, taken[0])
                begun = True
                if flow_run.state is not None and flow_run.state.name == "Resuming":
                    self._host.ends.heed_cancel(run_id)
        except LedgerUnavailable as error:
            log.warning("Run %s could not be taken up and is later: %s", run_id, error)
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            log.warning("Run %s could not be taken up and is later: %s", run_id, error)
        except (UsageError, CodeNotLoaded) as error:  # it is told when Prefect gives the run
            log.debug("Run %s could not be taken up here: %s", run_id, error)
        except Exception:
            log.exception("Run %s could not be taken up here.", run_id)
        finally:
            if not within:
                slots.leave(turn)
            elif not begun:
                slots.leave(run_id)
            self.entered(run_id, begun=begun)
            if not begun and taken is not None:
                self._host.returns.start(self._host.returns.give_back(run_id, taken[0].attempt, begun=False))

    async def _read(self, run_ids: Sequence[str]) -> list[FlowRun | None]:
        found = await runs_of(self._host.plain, run_ids)
        return [found.get(run_id) for run_id in run_ids]

    async def _does_without(self, deployment: str) -> None:
        """What runs apart is not for the host to take up, until one of its runs is begun here after all."""
        self.apart.add(deployment)
        self._host.deployments.discard(deployment)
        await self._host.ledger.hosted.disown(self._host.address, deployment)


def _turn_of(run_id: str) -> str:
    """What it is called among those that wait for a slot, where a guest has the name of its run."""
    return f"cold run {run_id}"
