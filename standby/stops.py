"""What stops an attempt without being an error of its run: nothing is written of it any more, and the run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.exceptions import Abort

from standby.errors import LedgerUnavailable


class Fenced(Abort):
    """Stop signal, not an error: another attempt has this run, so this one must end and write nothing more.

    It derives from Prefect's ``Abort``, a ``BaseException``: an agent's ``except Exception`` does not swallow it, and
    the engine ends the attempt without touching the run's state.
    """

    def __init__(self, run_id: str, attempt: int) -> None:
        super().__init__(f"Run {run_id} is another attempt's now (this was {attempt}); nothing more is written here.")


class Left(Abort):
    """Stop signal: the host that runs this attempt ends, or its process, and another takes the run up from its last
    checkpoint."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"Run {run_id} is left to another process: this one ends.")


class Over(Abort):
    """Stop signal: the agent has come to its end, or was cancelled, and what it has left running does nothing more."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"Run {run_id} is over here, or this attempt at it: what is left of it does nothing more.")


class Away(Abort):
    """Stop signal: the ledger cannot be reached. The run stays as it stands there, and when the ledger is back another
    attempt takes it up from its last checkpoint."""

    def __init__(self, run_id: object, error: BaseException) -> None:
        super().__init__(f"Run {run_id} stops here and goes on from its last checkpoint when it can: {error}")


@contextmanager
def stopped_without_ledger(run_id: str) -> Iterator[None]:
    """Around what asks the ledger on the agent's way: an agent that caught the error would take another way for it than
    its next attempt, which is answered."""
    try:
        yield
    except LedgerUnavailable as error:
        raise Away(run_id, error) from error


def met(error: BaseException, *kinds: type[BaseException]) -> BaseException | None:
    """The error if it is of these kinds, or the first of them in a group: a TaskGroup raises what its tasks have."""
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, kinds) else None
    found, _ = error.split(kinds)
    while found is not None:
        [first, *_] = found.exceptions
        if not isinstance(first, BaseExceptionGroup):
            return first
        found = first
    return None
