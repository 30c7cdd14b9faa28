"""A Prefect client for one attempt in a host: the host's connection, and the run's state changes in their order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus, StateAcceptDetails
from prefect.context import AsyncClientContext, ContextModel
from prefect.exceptions import ObjectNotFound
from prefect.types._datetime import now

from standby.believing import careful
from standby.ledger import Ledger
from standby.parking.following import Following
from standby.projection import states_of
from standby.states import RunState

log = logging.getLogger("standby.host")

R = TypeVar("R")


class RunClient(PrefectClient):
    """What an attempt has as its client. Made by ``of``; opening and closing it does nothing, for it is the host's.

    ``known``: the run as it was just read, given out once instead of reading it again. ``ahead``: the ledger has
    claimed the run, so the attempt does not wait for Prefect to show it as Running; ``follow`` is called instead. Until
    then its state has the id of the one that is ``shown`` there, which was before this attempt. ``ended``: is called
    when the attempt's end is to be told.
    """

    run_id: str
    known: FlowRun | None
    shown: UUID | None
    following: Following
    ledger: Ledger
    follow: Callable[[], None] | None
    ended: Callable[[], None]

    @classmethod
    def of(
        cls,
        client: PrefectClient,
        following: Following,
        ledger: Ledger,
        flow_run: FlowRun,
        follow: Callable[[], None] | None = None,
        *,
        ended: Callable[[], None] = lambda: None,
    ) -> RunClient:
        # The constructor would make a connection pool and a TLS context of its own: a megabyte for each attempt.
        made = cls.__new__(cls)
        made.__dict__.update(client.__dict__)
        made.run_id, made.known, made.following, made.follow = str(flow_run.id), flow_run, following, follow
        made.ledger, made.ended = ledger, ended
        made.shown = flow_run.state.id if flow_run.state is not None else None
        return made

    async def __aenter__(self) -> RunClient:
        return self

    async def __aexit__(self, *_: Any) -> None:
        return None

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        known, self.known = self.known, None
        if known is not None and known.id == flow_run_id:
            return known
        return await super().read_flow_run(flow_run_id)

    async def set_flow_run_state(
        self, flow_run_id: UUID | str, state: State[Any], force: bool = False
    ) -> OrchestrationResult[Any]:
        if str(flow_run_id) != self.run_id:
            return await super().set_flow_run_state(flow_run_id, state, force)
        follow, self.follow = self.follow, None
        if follow is not None and state.is_running():
            state.timestamp = now("UTC")
            state.id = self.shown or state.id
            follow()
            return _accepted(state)

        if state.type in (StateType.COMPLETED, StateType.FAILED) and not force:
            self.ended()
            return await self._end(state)

        async def set_state() -> OrchestrationResult[Any]:
            return await PrefectClient.set_flow_run_state(careful(self), flow_run_id, state, force)

        return await self._in_turn(set_state)

    async def _end(self, state: State[Any]) -> OrchestrationResult[Any]:
        """Tell of the attempt's end. Where the ledger has the run ended so, the attempt hears of nothing else: for
        Prefect's engine a refusal is an error of the agent's own, by which the run fails."""

        async def tell() -> OrchestrationResult[Any]:
            try:
                result = await PrefectClient.set_flow_run_state(self, self.run_id, state)
            except ObjectNotFound:
                if await states_of(self, [self.run_id]):
                    raise
                return _accepted(state)  # it was deleted there
            if result.status in (SetStateStatus.REJECT, SetStateStatus.ABORT) and await self._is_ledgers(state):
                # Somebody has cancelled it there meanwhile.
                result = await PrefectClient.set_flow_run_state(self, self.run_id, state, force=True)
            return result

        try:
            return await self._in_turn(tell, surely=True)
        except Exception as error:
            if not await self._is_ledgers(state):
                raise
            log.warning("That run %s ended as %s is told Prefect by the keeper: %s", self.run_id, state.name, error)
            return _accepted(state)

    async def _is_ledgers(self, state: State[Any]) -> bool:
        if state.is_completed():
            return True  # the agent's function does not return before
        row = await self.ledger.runs.get(self.run_id)
        return row is not None and row.state == RunState.FAILED

    async def create_flow_run_input(self, flow_run_id: UUID, key: str, value: str, sender: str | None = None) -> None:
        await self._in_turn(lambda: PrefectClient.create_flow_run_input(self, flow_run_id, key, value, sender))

    async def delete_flow_run_input(self, flow_run_id: UUID, key: str) -> None:
        await self._in_turn(lambda: PrefectClient.delete_flow_run_input(self, flow_run_id, key))

    async def _in_turn(self, write: Callable[[], Awaitable[R]], *, surely: bool = False) -> R:
        """Writes are made as the server bears them, and again when it does not."""
        # Shielded: what is under way is not undone by who no longer waits for it.
        result: R = await asyncio.shield(self.following.later(self.run_id, write, surely=surely))
        return result


def _accepted(state: State[Any]) -> OrchestrationResult[Any]:
    return OrchestrationResult(state=state, status=SetStateStatus.ACCEPT, details=StateAcceptDetails())


class RunClientContext(AsyncClientContext):
    """Makes a ``RunClient`` the client that Prefect finds in an attempt's context."""

    def __init__(self, client: RunClient) -> None:
        ContextModel.__init__(self, client=client)
