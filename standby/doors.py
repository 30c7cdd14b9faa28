"""What every door does with an answer or a signal: check it, write it to the ledger, then wake the run."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import httpx

from standby.connect import open_prefect
from standby.errors import AnswerRefused, NotAllowed, SignalRefused
from standby.faults import reach
from standby.ledger import Ledger
from standby.ledger.signals import Delivery
from standby.states import Door, Outcome
from standby.waits import checked_answer
from standby.wakeups import call

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

    from standby.starts import ToStart

log = logging.getLogger("standby.doors")

LOOK_SECONDS = 3.0
"""How long Prefect may take to say whether there is what a signal starts; then the signal is taken unchecked."""

TELL_SECONDS = 5.0
"""How long Prefect may take to wake or to make a run. The ledger has the answer or the signal by then, and what Prefect
has not done the keeper does."""


class Answered(NamedTuple):
    """What became of an answer.

    ``won``: it is the wait's answer. ``counted``: it counts, and the wait's policy asks for more. Else ``winner`` is
    the decision that was first. ``woken`` tells whether the run was woken at once; if not, it either needs no waking,
    or Prefect was ``unreached`` and the keeper does it.
    """

    won: bool
    wait: Any
    winner: Any | None
    woken: bool
    counted: bool = False
    unreached: bool = False


async def answer(
    ledger: Ledger,
    wait: Any,
    text: str,
    *,
    door: Door,
    actor: str | None,
    api_url: str | None,
    opening: int | None = None,
    note: str | None = None,
) -> Answered:
    """Answer a wait (its ledger row) with a JSON text; only this ``opening`` of it, where one is given.

    ``note`` stands with the decision in the audit.

    Raises ``AnswerRefused`` for what does not fit and ``NotAllowed`` for who may not decide; the run then waits on.
    """
    checked = checked_answer(wait, text)
    settled = await ledger.waits.settle(
        wait.id, outcome=Outcome.ANSWERED, answer=checked, door=door, actor=actor, note=note, opening=opening
    )
    assert settled is not None
    if settled.refused is not None:
        raise NotAllowed(f"Not counted, the wait is as it was: {settled.refused}.")
    asleep = settled.won and settled.wake
    woken = asleep and await wake_run(wait.run_id, settled.wake_address, api_url)
    return Answered(settled.won, settled.wait, settled.winner, woken, settled.counted, asleep and not woken)


async def signal(
    ledger: Ledger,
    *,
    topic: str,
    key: str | None,
    payload: str,
    source: str,
    delivery_id: str | None,
    api_url: str | None,
    start: ToStart | None = None,
) -> Delivery:
    """Take a signal in, and wake or start the run it is for. The rest is as for ``take``."""
    async with AsyncExitStack() as stack:
        client = None
        if start is not None and api_url is not None:
            client = await stack.enter_async_context(open_prefect(api_url))
        delivery = await take(
            ledger, topic=topic, key=key, payload=payload, source=source, delivery_id=delivery_id, start=start,
            client=client,
        )  # fmt: skip
        delivery = await start_run(ledger, delivery, client)
    if delivery.wake and delivery.run_id is not None:
        await wake_run(delivery.run_id, delivery.wake_address, api_url)
    return delivery


async def take(
    ledger: Ledger,
    *,
    topic: str,
    key: str | None,
    payload: str,
    source: str,
    delivery_id: str | None,
    start: ToStart | None = None,
    client: PrefectClient | None = None,
) -> Delivery:
    """Write a signal to the ledger, and no more.

    ``payload`` is JSON text; without a delivery id each call is a delivery of its own. A payload that the wait for it
    cannot take is rejected, and the run waits on. With ``start``, a signal that finds no living run starts one.

    Raises ``AnswerRefused`` for what is no JSON, and ``StartRefused`` for a start that has to be made and cannot be;
    Prefect, which knows the deployments, is asked with ``client`` if it answers within ``LOOK_SECONDS``.
    """
    try:
        plain = json.dumps(json.loads(payload), allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        raise SignalRefused(topic, [("payload", f"it is not JSON: {error}")]) from error
    new = start.new(plain, await _problems_of(start, key, plain, client)) if start is not None else None
    reach("signal.delivering")
    delivery = await ledger.signals.deliver(
        source=source,
        delivery_id=delivery_id or uuid4().hex,
        topic=topic,
        correlation=key,
        payload=plain,
        misfit=misfit,
        start=new,
    )
    reach("signal.delivered")
    return delivery


async def _problems_of(
    start: ToStart, key: str | None, payload: str, client: PrefectClient | None
) -> list[tuple[str, str]]:
    from standby.starts import problems_of

    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return await problems_of(start, key, payload, client)
    except TimeoutError:
        log.warning("Whether %r can be started cannot be seen now: Prefect does not answer.", start.deployment)
        return await problems_of(start, key, payload, None)
    except httpx.InvalidURL as error:
        return [("start.deployment", f"nothing can be called so: {error}")]


async def start_run(ledger: Ledger, delivery: Delivery, client: PrefectClient | None) -> Delivery:
    """Have Prefect make the run that a signal starts; the delivery with its id. What fails here the keeper does."""
    start = delivery.start
    if start is None or start.run_id is not None or start.over_at is not None or client is None:
        return delivery
    from standby.starts import make_run

    try:
        async with asyncio.timeout(TELL_SECONDS):
            return delivery._replace(run_id=await make_run(ledger, start, client))
    except Exception as error:  # whatever it is, the signal is taken
        log.warning("The run of start %s could not be made now, the keeper will: %r", start.id, error)
        return delivery


async def redrive(ledger: Ledger, signal_id: str, api_url: str | None) -> Delivery | None:
    """Send a signal that reached nobody on its way again; None if it is not one of those."""
    delivery = await ledger.signals.redrive(signal_id, misfit)
    if delivery is not None and delivery.wake and delivery.run_id is not None:
        await wake_run(delivery.run_id, delivery.wake_address, api_url)
    return delivery


def misfit(wait: Any, payload: str) -> list[tuple[str, str]]:
    """What is wrong with a signal's payload for a wait, as far as can be told here."""
    try:
        checked_answer(wait, payload, whole="payload")
    except AnswerRefused as refused:
        return refused.problems
    return []


async def wake_run(run_id: str, wake_address: str | None, api_url: str | None) -> bool:
    """Wake a run whose wait has settled. False when Prefect does not do it in ``TELL_SECONDS``: the keeper will."""
    if wake_address is not None and call(wake_address):
        return True
    if api_url is None:
        return False
    from prefect.exceptions import PrefectHTTPStatusError

    from standby.parking import wake

    try:
        async with asyncio.timeout(TELL_SECONDS), open_prefect(api_url) as client:
            await wake(client, run_id)
    except (TimeoutError, httpx.HTTPError, PrefectHTTPStatusError, RuntimeError) as error:
        log.warning("Run %s could not be woken now, the keeper will: %r", run_id, error)
        return False
    return True
