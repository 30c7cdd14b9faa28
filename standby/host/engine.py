"""Prefect's flow engine for an attempt that shares its process with others.

Left out is what stands for a process of its own: the signal handler, the heartbeat thread, the websocket that listens
for a suspension of this run, and the calls that tell the server what it knows. The host does the first three for all.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from prefect import Flow
from prefect._flow_run_suspension import FlowRunSuspensionRequest
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort, Pause
from prefect.flow_engine import AsyncFlowRunEngine
from prefect.utilities.callables import get_call_parameters, parameters_to_args_kwargs

from standby.checkpoints import load_store
from standby.host.client import RunClient


class HostedEngine(AsyncFlowRunEngine[Any, Any]):
    """``await engine.execute()`` is one attempt, to its end."""

    def __init__(self, flow: Flow[..., Any], flow_run: FlowRun, client: RunClient) -> None:
        args, kwargs = parameters_to_args_kwargs(flow.fn, flow_run.parameters)
        super().__init__(flow=flow, flow_run=flow_run, parameters=get_call_parameters(flow.fn, args, kwargs))
        self._shared = client

    @property
    def heartbeat_seconds(self) -> int | None:
        return None

    def suspension_requested(self, state: State[Any]) -> None:
        """Somebody has suspended the run in Prefect while it runs: it stops at its next task."""
        self._flow_run_suspension_request.mark_requested(state)

    async def execute(self) -> None:
        if self.flow.result_storage is None:
            # Else Prefect would ask the server for its default, for each attempt, in this thread: nothing here goes on
            # until it has answered.
            self.flow.result_storage = await load_store(str(self._shared.api_url))
        async with self.start():
            while self.is_running():
                async with self.run_context():
                    await self.call_flow_fn()  # type: ignore[unused-coroutine]

    @contextmanager
    def setup_flow_run_suspension_request(self) -> Iterator[FlowRunSuspensionRequest]:
        yield self._flow_run_suspension_request

    @asynccontextmanager
    async def initialize_run(self) -> AsyncIterator[HostedEngine]:
        self._client, self._is_started = self._shared, True
        try:
            yield self
        except (Abort, Pause) as stop:
            if (state := getattr(stop, "state", None)) is not None:
                assert self.flow_run is not None
                self.flow_run.state = state
            raise
        finally:  # the host knows why it cancels; other errors have been dealt with
            last: State[Any] | None = self.state  # none of a run that is cancelled before it began
            if last is not None and (last.is_final() or last.is_paused()):
                level = logging.INFO if last.is_completed() or last.is_paused() else logging.ERROR
                self.logger.log(level, "Finished in state %s", last)
            self._is_started, self._client = False, None
