"""An attempt takes a run for itself, and no second one can while it lives."""

import asyncio
from datetime import timedelta

from standby.ledger import Ledger
from standby.ledger.runs import Claim
from standby.states import RunState

from .acts import LEASE, ME, OTHER, claim, state_of_run
from .conftest import Connect, Watch


async def test_the_first_claim_makes_the_run_and_is_attempt_one(ledger: Ledger) -> None:
    taken = await claim(ledger)
    assert (taken.attempt, taken.was) == (1, None)
    run = await ledger.runs.get("run")
    assert run is not None
    assert (run.state, run.attempt, run.holder, run.name) == (RunState.RUNNING, 1, ME, "name of run")


async def test_a_live_lease_refuses_and_names_its_holder(ledger: Ledger, watch: Watch) -> None:
    await claim(ledger)
    watch.forward(LEASE - timedelta(microseconds=1))
    refused = await claim(ledger, holder=OTHER)
    assert refused == Claim(0, RunState.RUNNING, None, ME, watch.now + timedelta(microseconds=1))
    assert (await claim(ledger, holder=ME)).attempt == 0, "not even to the same process: it may be its other thread"


async def test_a_lease_that_has_run_out_is_taken_over(ledger: Ledger, watch: Watch) -> None:
    await claim(ledger)
    watch.forward(LEASE)
    taken = await claim(ledger, holder=OTHER)
    assert (taken.attempt, taken.was) == (2, RunState.RUNNING)


async def test_the_lease_of_a_dead_holder_is_not_waited_for(ledger: Ledger) -> None:
    await claim(ledger)
    assert (await claim(ledger, holder=OTHER, presumed_dead="machine/3/3.00")).attempt == 0
    assert (await claim(ledger, holder=OTHER, presumed_dead=ME)).attempt == 2


async def test_a_completed_run_is_not_claimed_and_gives_its_result(ledger: Ledger) -> None:
    await claim(ledger)
    assert await ledger.runs.end("run", 1, RunState.COMPLETED, result='{"paid": 7}')
    assert await claim(ledger) == Claim(0, RunState.COMPLETED, '{"paid": 7}')
    assert await state_of_run(ledger) == RunState.COMPLETED


async def test_a_failed_run_is_claimed_again_without_its_error(ledger: Ledger) -> None:
    await claim(ledger)
    assert await ledger.runs.end("run", 1, RunState.FAILED, error="ValueError: no")
    taken = await claim(ledger)
    assert (taken.attempt, taken.was) == (2, RunState.FAILED)
    run = await ledger.runs.get("run")
    assert run is not None
    assert (run.state, run.error, run.ended_at) == (RunState.RUNNING, None, None)


async def test_a_renewed_lease_lasts_from_then_on(ledger: Ledger, watch: Watch) -> None:
    await claim(ledger)
    watch.forward(LEASE / 2)
    assert await ledger.runs.renew("run", 1, LEASE)
    watch.forward(LEASE / 2)
    assert (await claim(ledger, holder=OTHER)).attempt == 0
    watch.forward(LEASE / 2)
    assert (await claim(ledger, holder=OTHER)).attempt == 2


async def test_a_late_renewal_does_not_take_back_what_was_let_go(ledger: Ledger) -> None:
    await claim(ledger)
    assert await ledger.runs.release("run", 1)
    assert await ledger.runs.renew("run", 1, LEASE), "still the run's last attempt"
    assert (await claim(ledger, holder=OTHER)).attempt == 2, "and yet it holds nothing"


async def test_the_renewal_of_a_fenced_attempt_is_refused(ledger: Ledger) -> None:
    await claim(ledger)
    await claim(ledger, holder=OTHER, presumed_dead=ME)
    assert not await ledger.runs.renew("run", 1, LEASE)
    assert not await ledger.runs.renew("no such run", 1, LEASE)


async def test_of_many_that_claim_at_once_one_gets_the_run(connect: Connect) -> None:
    """G8: eight processes find a dead holder at the same moment, and one of them goes on."""
    ledgers = [await connect() for _ in range(8)]
    for round_ in range(20):
        run = f"run {round_}"
        assert (await claim(ledgers[0], run)).attempt == 1
        taken = await asyncio.gather(
            *(claim(ledger, run, holder=f"machine/{n}/0", presumed_dead=ME) for n, ledger in enumerate(ledgers))
        )
        assert sorted(claim.attempt for claim in taken) == [0] * 7 + [2], taken


async def test_a_failed_run_is_claimed_only_when_it_is_retried(ledger: Ledger, watch: Watch) -> None:
    """An attempt that was started before the failure, and comes late, is no retry."""
    await claim(ledger)
    await ledger.runs.end("run", 1, RunState.FAILED, error="ValueError: no")
    run = await ledger.runs.get("run")
    assert run is not None
    how = {"flow": "an-agent", "name": "it", "deployment_id": "deployment", "holder": OTHER, "lease": LEASE}
    late = await ledger.runs.claim("run", **how, retried=False)  # type: ignore[arg-type]
    assert late == Claim(0, RunState.FAILED, None, error="ValueError: no", ended_at=run.ended_at)
    assert await state_of_run(ledger) == RunState.FAILED
    first = late.ended_at
    assert (await ledger.runs.claim("run", **how, retried=first)).attempt == 2  # type: ignore[arg-type]
    watch.forward(timedelta(seconds=1))
    assert await ledger.runs.end("run", 2, RunState.FAILED, error="ValueError: no, again")
    assert (await ledger.runs.claim("run", **how, retried=first)).attempt == 0  # type: ignore[arg-type]
    assert (await ledger.runs.claim("run", **how, retried=True)).attempt == 3  # type: ignore[arg-type]
