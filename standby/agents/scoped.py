"""What is asked as a scope says: of whom, and by which policy, also when that changes while the question is open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from standby.hold import Asked
from standby.ledger.opening import WaitRow
from standby.waits import Approval

if TYPE_CHECKING:
    from standby.agents.thinking import Thinking

F = TypeVar("F")


class InVain(Exception):
    """Nothing can come of any answer to a question: the scope denies by now all that it is about."""


class ScopedApproval(Approval[F]):
    """An ``Approval`` whose ``party`` and ``policy`` are the scope's: as it is when the question is opened, and again
    when the run takes the answer in. ``in_vain``: whether the scope denies by now all that it is about; ``InVain`` is
    raised then, rather than that other people are asked."""

    def __init__(
        self,
        thinking: Thinking,
        reason: str,
        *,
        form: type[F],
        in_vain: Callable[[], bool] = lambda: False,
        **more: Any,
    ) -> None:
        asking = thinking.scope.asking
        super().__init__(reason, form=form, party=asking.party, policy=asking.policy, **more)
        object.__setattr__(self, "thinking", thinking)
        object.__setattr__(self, "in_vain", in_vain)
        object.__setattr__(self, "waited", [thinking.thread.run.paused_seconds])

    thinking: Thinking
    in_vain: Callable[[], bool]
    waited: list[float]

    def counts_anew(self) -> bool:
        if self.in_vain():
            raise InVain
        return True

    async def today(self, key: str, asked: Asked | None = None) -> WaitRow:
        run = self.thinking.thread.run
        if self.waited != [run.paused_seconds]:
            self.waited[:] = [run.paused_seconds]
            await self.thinking.refresh()
        asking = self.thinking.scope.asking
        policy = asking.policy.model_dump_json() if asking.policy is not None else None
        return replace(await super().today(key, asked), party=asking.party, policy=policy)
