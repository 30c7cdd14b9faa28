"""Make a real process die, by SIGKILL, at a named point of its work.

``STANDBY_CRASH_AT=step.acted:2`` in the environment of a process that runs an agent kills it the second time it comes
to ``step.acted`` (``:1`` if no number is given). The points, in the order in which a run comes by them:

``run.attached`` the attempt has the run; ``step.before`` a step is about to start; ``step.intended`` a ``once`` step
has recorded its intent; ``step.acting`` the function is about to be called; ``step.acted`` it has returned;
``step.recorded`` the checkpoint is in the ledger; ``step.after`` Prefect has heard of it, too; ``wait.opening`` a
wait is about to be written; ``wait.opened`` it is written; ``wait.suspending`` the form is saved;
``wait.suspended`` Prefect shows the run as suspended; ``wait.parked`` the ledger has it as parked;
``wait.consumed`` an answer is stored as a checkpoint; ``run.ended`` the ledger has the run's result, or ``run.failed``
what it failed with.

Those around an agent that is started: ``child.starting`` its wait is open; ``child.created`` Prefect has its run;
``child.started`` the ledger knows which. And those of a door, such as a gateway: ``signal.delivering`` a signal is
about to be written, ``signal.delivered`` it is written, and nobody was woken, started or told yet; ``start.created``
Prefect has the run that it starts, and the ledger does not know which. In a host: ``wait.woken`` a run that was held
warm has claimed itself, and its answer is not taken in yet.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

from standby import faults

POINTS = (
    "run.attached", "step.before", "step.intended", "step.acting", "step.acted", "step.recorded", "step.after",
    "wait.opening", "wait.opened", "wait.suspending", "wait.suspended", "wait.parked", "wait.consumed", "run.ended",
)  # fmt: skip
FAILURE_POINTS = ("run.failed",)
CHILD_POINTS = ("child.starting", "child.created", "child.started")
DOOR_POINTS = ("signal.delivering", "signal.delivered", "start.created")
HOST_POINTS = ("wait.woken",)
ALL_POINTS = POINTS + FAILURE_POINTS + CHILD_POINTS + DOOR_POINTS + HOST_POINTS


def arm(where: str) -> None:
    """Die at ``point`` or ``point:n``. Raises ``ValueError`` for a point there is not."""
    point, _, count = where.partition(":")
    if point not in ALL_POINTS:
        raise ValueError(f"There is no crash point {point!r}. The points are {', '.join(ALL_POINTS)}.")
    fatal = int(count or 1)
    reached: Counter[str] = Counter()

    def die(at: str) -> None:
        reached[at] += 1
        if at == point and reached[at] == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    faults.set_hook(die)
