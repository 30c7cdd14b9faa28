"""The least that who approves has to say in a number of a form, for it to be of any help."""

from __future__ import annotations

from contextlib import suppress
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from standby import clock
from standby.waits.showing import NEEDED


class Least(BaseModel):
    """As it stands in the JSON Schema of the field, under ``NEEDED``, so that every door knows it.

    ``above``: the number has to be more than that. ``why`` in words. ``step``: of the numbers that are proposed.
    ``whole``: there is nothing but whole numbers of it. ``since``: from then on a second makes it one more.
    """

    model_config = ConfigDict(extra="forbid")

    above: float
    why: str
    step: float = 1
    whole: bool = False
    since: AwareDatetime | None = None

    @property
    def said(self) -> str:
        """The numbers that help, as of now."""
        step = Decimal(str(self.step))
        number = ((Decimal(str(self._above())) / step).to_integral_value(ROUND_FLOOR) + 1) * step
        grows = "" if self.since is None else ", and one more for each second until it goes on"
        return f"{_plain(number)} or more{grows}"

    def problem(self, number: float) -> str | None:
        """What is wrong with a number; None if it helps."""
        if self.whole and number % 1:
            return f"there is no {_plain(number)} of them, only whole ones: say {self.said}"
        if number <= self._above():
            return f"{_plain(number)} would not be enough, for {self.why}: say {self.said}"
        return None

    def _above(self) -> float:
        passed = 0.0 if self.since is None else (clock.utcnow() - self.since).total_seconds()
        return self.above + max(passed, 0.0)


def least_of(field: Any) -> Least | None:
    """What the schema of a field says of it; None if it says nothing, as those of before that was kept."""
    with suppress(ValidationError):
        return Least.model_validate(field.get(NEEDED)) if isinstance(field, dict) else None
    return None


def too_little(schema: Any, answer: Any) -> list[tuple[str, str]]:
    """Fields of an answer that approves, as it is stored, with numbers that would not help, each with what is wrong."""
    if not isinstance(schema, dict) or not isinstance(answer, dict) or answer.get("approved") is not True:
        return []
    found = []
    for name, field in schema.get("properties", {}).items():
        number, least = answer.get(name), least_of(field)
        if least is None or isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if (problem := least.problem(number)) is not None:
            found.append((name, problem))
    return found


def _plain(number: float | Decimal) -> str:
    return f"{Decimal(str(number)).normalize():f}"
