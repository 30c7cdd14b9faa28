"""Waits for the end of another agent's run, which is started for it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict, overload

from pydantic import BaseModel

from standby.errors import AgentFailed, UsageError
from standby.moments import BusinessDays
from standby.states import RunState, WaitKind
from standby.values import Codec
from standby.waits.base import A, Wait, one_deadline


class Finished(BaseModel):
    """How a run that was waited for ended. ``state``: ``completed``, ``failed`` or ``cancelled``."""

    run_id: str
    state: str
    result: Any = None
    error: str | None = None


class Child(TypedDict):
    """An agent that is started: ``deployment`` is ``flow/name``, ``if_closed`` is ``cancel`` or ``leave``."""

    deployment: str
    parameters: dict[str, Any]
    if_closed: str


class AgentFinished(Wait[A]):
    """Start another agent and wait for its end; the answer is its result.

    ``deployment``: ``flow-name/deployment-name``. ``parameters``: JSON. ``of``: the type of its result, any JSON by
    default. It is started once for this wait, whatever dies in between. ``if_closed``: what becomes of it if this run
    stops waiting for it (it is cancelled, fails, its deadline passes, or something else of ``wait_any`` came first):
    ``"cancel"`` (default) or ``"leave"``. If it fails or is cancelled, the wait raises ``AgentFailed``. The deadline as
    for ``Approval``.
    Raises ``UsageError`` for parameters that are not JSON.
    """

    @overload
    def __init__(
        self: AgentFinished[Any],
        deployment: str,
        parameters: dict[str, Any] | None = None,
        *,
        if_closed: Literal["cancel", "leave"] = "cancel",
        reason: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        deployment: str,
        parameters: dict[str, Any] | None = None,
        *,
        of: type[A],
        if_closed: Literal["cancel", "leave"] = "cancel",
        reason: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
    ) -> None: ...
    def __init__(
        self,
        deployment: str,
        parameters: dict[str, Any] | None = None,
        *,
        of: Any = Any,
        if_closed: Literal["cancel", "leave"] = "cancel",
        reason: str | None = None,
        within: timedelta | BusinessDays | None = None,
        by: datetime | None = None,
    ) -> None:
        flow, slash, name = deployment.partition("/")
        if not (flow and slash and name):
            raise UsageError(f"{deployment!r} is no deployment: give flow-name/deployment-name.")
        if if_closed not in ("cancel", "leave"):
            raise UsageError(f"if_closed= is 'cancel' or 'leave', not {if_closed!r}.")
        try:
            plain = json.loads(json.dumps(parameters or {}, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"The parameters for {deployment} are sent as JSON, which they are not: {error}"
            ) from error
        codec: Codec[Any] = Codec(lambda: Finished)
        super().__init__(reason or f"{deployment} to end", flow, codec, None, one_deadline(within, by))
        object.__setattr__(self, "child", Child(deployment=deployment, parameters=plain, if_closed=if_closed))
        object.__setattr__(self, "result", Codec(lambda: of))

    child: Child
    result: Codec[A]

    def kind(self) -> WaitKind:
        return WaitKind.AGENT

    def more(self) -> dict[str, Any]:
        return {"child": json.dumps(self.child)}

    def failed(self, text: str) -> bool:
        """Whether this answer is not that the agent has completed."""
        ended: Any = self.codec.decode(text)
        return bool(ended.state != RunState.COMPLETED)

    def taken(self, answer: Any) -> A:
        if answer.state != RunState.COMPLETED:
            raise AgentFailed(answer.run_id, answer.state, answer.error)
        return self.result.decode(json.dumps(answer.result))
