"""What came through Prefect's form or its API, and whether it settles the wait."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRunInput
from prefect.exceptions import PrefectHTTPStatusError

from standby.believing import Careful, careful
from standby.ledger.opening import Group
from standby.parking.client import prefect_for
from standby.parking.forms import answer_of, opening
from standby.policy import Policy
from standby.runs import AgentRun
from standby.states import Door, Outcome
from standby.values import Codec, summary
from standby.waits import Wait, unknown_fields

_anything: Codec[Any] = Codec(lambda: Any)


async def take_response(run: AgentRun, group: Group, waits: Mapping[str, Wait[Any]]) -> None:
    """Settle the group with what came through Prefect's form or ``/resume``, if anything did. ``waits``: by their keys.

    Untrusted: it is checked with the wait's type, and what does not fit leaves the wait open and is written down.
    """
    async with prefect_for(run.id) as client:
        for wait in group.waits:
            if (declared := waits.get(wait.key)) is None:
                continue  # of an earlier attempt, and closed
            async for found in responses(client, wait):
                settled = [await _take(run, client, wait, declared, response) for response in found]
                if any(settled):
                    break  # each question more takes a hundredth of a second, and the agent waits for it


async def answer_in_prefect(client: PrefectClient, wait: Any) -> tuple[str, datetime | None] | None:
    """The answer (JSON text) that Prefect has taken for a run's wait, and when; the run has not read it yet."""
    async for found in responses(careful(client), wait):
        for response in found:
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                return answer_of(response, wait), response.created
    return None


async def responses(client: Careful, wait: Any) -> AsyncIterator[list[FlowRunInput]]:
    """What was submitted for this wait in Prefect. The key names the wait: no other one of its group is reached."""
    # Both: how a run was held when it was answered is not always what the ledger knows of, nor how it is held now.
    for verb in ("suspended", "paused"):
        for number in range(wait.asked_since, wait.opening + 1):
            prefix = f"{verb}-{opening(wait, number)}-"
            saved = await client.filter_flow_run_input(
                UUID(wait.run_id), key_prefix=prefix, limit=200, exclude_keys=set()
            )
            if found := [item for item in saved if item.key.endswith("-response")]:
                yield found


async def _take(run: AgentRun, client: Careful, wait: Any, declared: Wait[Any], response: FlowRunInput) -> bool:
    """Whether it fits; it is deleted in Prefect."""
    text = json.dumps(response.value)  # what is no JSON, or too deep to be read, is written down as a text
    try:
        given = answer_of(response, wait)
        plain = _anything.decode(given)
        text = given
        if unknown := unknown_fields(wait, plain):
            raise ValueError("; ".join(f"{field}: {reason}" for field, reason in unknown))
        answer, _ = declared.read(text)
        if wait.policy is not None and (policy := Policy.model_validate_json(wait.policy)).names_people:
            raise ValueError(
                f"Prefect does not say who answers, and it counts ({policy.said}): answer in the terminal, through the "
                "gateway or by a link"
            )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        if not await run.ledger.waits.note_refusal(run.id, run.attempt, wait.id, text, summary(error)):
            run.stop()
        await _forget(client, run.id, response.key)
        return False
    await run.ledger.waits.settle(
        wait.id, outcome=Outcome.ANSWERED, answer=answer, door=Door.PREFECT, note=response.sender,
        given_at=response.created,
    )  # fmt: skip
    if run.hosting is not None:
        run.hosting.forgets(response.key)
    else:
        await _forget(client, run.id, response.key)
    return True


async def _forget(client: Careful, run_id: str, key: str) -> None:
    try:
        await client.delete_flow_run_input(UUID(run_id), key)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 404:  # the answer to the call that has deleted it was lost
            raise
