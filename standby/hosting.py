"""What a run knows of the host that runs it beside others."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from standby.ledger.opening import Group
    from standby.ledger.runs import Claim
    from standby.runs import AgentRun


class Woken(StrEnum):
    """Why an attempt that lingers may go on, or has to go."""

    SETTLED = "settled"  # the ledger has it READY, it is said
    RESUMED = "resumed"  # Prefect has it scheduled, it is said
    EVICTED = "evicted"  # it has lingered long enough, or its memory is wanted


class Hosting(Protocol):
    """What a host is to one attempt that it runs. ``address``: where it hears of the run's settled waits.

    ``claimed``: the claim that was made before the attempt began, for ``attach`` to take over.
    """

    address: str
    claimed: Claim | None

    @property
    def cold_address(self) -> str | None:
        """The same when nothing of the run is in memory any more; None: it is woken through Prefect then."""

    def begins(self, run: AgentRun) -> None:
        """The attempt has the run."""

    async def linger_seconds(self, waits: list[Any]) -> float | None:
        """How long to linger for these waits (ledger rows); 0 not at all, None for ever."""

    def parks(self, group: Group) -> None:
        """The run is parked warm for these waits: Prefect is to follow."""

    async def until_woken(self, seconds: float | None) -> Woken:
        """Return when there is something to do, or ``seconds`` have passed. Raises ``UsageError`` when Prefect will not
        have the run suspended."""

    def lingers_on(self) -> None:
        """It was woken for nothing."""

    async def is_resumed(self) -> bool:
        """Whether Prefect has the run scheduled."""

    def pausing(self) -> AbstractAsyncContextManager[None]:
        """While the run waits in Prefect's own pause. Left when it is the run's turn to go on."""

    async def enters(self) -> None:
        """Return when it is the run's turn to go on: in the host, and in Prefect's queue where that says it."""

    async def shown(self) -> State[Any] | Woken | None:
        """Return when Prefect shows the run as it is: the state it is suspended in there; or why it is called first."""

    def forgets(self, key: str) -> None:
        """The answer that Prefect keeps under this key was taken: it is to be deleted there."""

    def goes_on(self) -> None:
        """The run goes on: Prefect is to follow."""

    def lost(self) -> None:
        """The run is another's, and its attempt was cancelled for that: it has to end."""

    def bill(self, key: str, *, let_go: bool) -> None:
        """The run does not linger any more for the group ``key``; ``let_go``: it waits on, unless it was cancelled."""


current_hosting: ContextVar[Hosting | None] = ContextVar("standby_hosting", default=None)
"""The host that runs this attempt beside others; None in a process that is the attempt's own."""
