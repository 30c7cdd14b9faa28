"""The question for more of a budget.

An amount that would not help is refused at every door, with the reason and the least that does.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from standby.agents.families import Short
from standby.agents.forms import More, check_more, least_more, schema_of_more
from standby.agents.scoped import ScopedApproval
from standby.hold import Asked
from standby.ledger.opening import WaitRow
from standby.waits import least_of, too_little

if TYPE_CHECKING:
    from standby.agents.thinking import Thinking


class MoreApproval(ScopedApproval[More]):
    """Asks for more of what an agent is ``short`` of. How much helps stands in the form's schema.

    A question that was opened before that was kept has taken what helps only in part, and that is granted: then there
    is another question.
    """

    def __init__(self, thinking: Thinking, reason: str, short: Short, **more: Any) -> None:
        least = least_more(short)
        show = (
            f"It stopped because {short.why}. What helps: {least.said}.\n\nSo far: {thinking.thread.spent_now().said}."
        )
        super().__init__(thinking, reason, form=More, show=show, **more)
        object.__setattr__(self, "what", short.what)
        object.__setattr__(self, "schema", schema_of_more(least))
        object.__setattr__(self, "opened_before", [])

    what: str
    schema: dict[str, Any]
    opened_before: list[bool]  # whether it was before the schema said how much helps; empty until that is known

    def check(self, answer: More) -> None:
        if self.opened_before == [True]:
            check_more(self.what, answer)
            return
        for field, problem in too_little(self.schema, answer.model_dump()):
            raise ValueError(f"{field}: {problem}")

    async def today(self, key: str, asked: Asked | None = None) -> WaitRow:
        if not self.opened_before:
            self.opened_before.append(await self._was_opened_before(key))
        return replace(await super().today(key, asked), answer_schema=json.dumps(self.schema))

    async def _was_opened_before(self, key: str) -> bool:
        run = self.thinking.thread.run
        if key not in run.journal:
            return False
        rows = (await run.ledger.waits.group(run.id, key)).waits
        forms = (json.loads(row.answer_schema or "{}").get("properties", {}) for row in rows)
        return any(least_of(form.get("amount")) is None for form in forms)
