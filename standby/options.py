"""What a step is marked with, and what of that is refused."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from standby.errors import UsageError
from standby.states import Effect
from standby.values import Codec


@dataclass(frozen=True, slots=True)
class StepOptions:
    name: str
    key: str | None = None
    effect: Effect = Effect.REPEATABLE
    probe: Callable[..., Awaitable[Any]] | None = None
    visible: bool = True
    retries: int = 0
    retry_delay_seconds: float = 0
    retry_on: tuple[type[Exception], ...] = (Exception,)
    timeout_seconds: float | None = None

    def check(self, fn: Callable[..., Any]) -> None:
        """Raises ``UsageError`` for what cannot be done with the function."""
        if self.probe is not None and self.effect is not Effect.ONCE:
            raise UsageError(f"Step {self.name!r} has a probe, which only effect='once' uses.")
        if self.probe is not None and inspect.get_annotations(fn).get("return") in (None, "None"):
            raise UsageError(
                f"Step {self.name!r} returns None and has a probe, whose None says that it did not happen. Return "
                "something, such as True."
            )
        if self.effect is Effect.ONCE and self.timeout_seconds is not None and not is_async(fn):
            raise UsageError(
                f"Step {self.name!r} acts once and has a timeout, but is not async: its thread could not be stopped "
                "and might act after all. Write it async, or let what it calls time out."
            )
        if self.retries < 0:
            raise UsageError(
                f"Step {self.name!r} has retries={self.retries}, with which it would never be tried. They count "
                "the tries after the first: 0 for none."
            )
        if self.effect is Effect.ONCE and self.retries and self.probe is None:
            raise UsageError(
                f"Step {self.name!r} acts once and has retries: a failed try may have acted. Give it a probe= "
                "that asks the outside system, or retries=0."
            )


def codec_of(fn: Callable[..., Any], name: str) -> Codec[Any]:
    """Of what the function of the step ``name`` returns, which it has to say."""
    if "return" not in inspect.get_annotations(fn):
        raise UsageError(
            f"Step {name!r} has no return annotation. Its result is stored as JSON and read back by that type: "
            "annotate it (-> None where there is no result)."
        )
    return Codec(lambda: get_type_hints(fn, include_extras=True)["return"])


def is_async(fn: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(fn)
