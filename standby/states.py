"""States and outcomes as enums, with the edges that are allowed between them.

The ledger is the truth about these; the Prefect state is a projection of ``RunState``.
"""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """Where an agent run is."""

    RUNNING = "running"  # an attempt holds it
    PARKED = "parked"  # it waits; nobody works on it
    READY = "ready"  # its wait settled and it has not been taken up yet
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED})

RUN_EDGES: dict[RunState, frozenset[RunState]] = {
    # RUNNING to RUNNING is a takeover: the attempt number goes up.
    RunState.RUNNING: frozenset({RunState.RUNNING, RunState.PARKED, RunState.READY, *ENDED}),
    # PARKED to RUNNING without an answer is a stray resume: the attempt finds its wait open and parks again.
    RunState.PARKED: frozenset({RunState.RUNNING, RunState.READY, *ENDED}),
    RunState.READY: frozenset({RunState.RUNNING, *ENDED}),
    RunState.COMPLETED: frozenset(),
    # A failed or cancelled run that is retried in Prefect goes on from its checkpoints.
    RunState.FAILED: frozenset({RunState.RUNNING, RunState.CANCELLED}),
    RunState.CANCELLED: frozenset({RunState.RUNNING}),
}


class CheckpointState(StrEnum):
    INTENDED = "intended"  # a `once` step is about to act, or a wait is open: the outcome is not known yet
    RECORDED = "recorded"  # the value is stored and will never be computed again
    FAILED = "failed"  # the step raised, and the agent went on: a replay raises the same


class CheckpointKind(StrEnum):
    STEP = "step"
    WAIT = "wait"


class WaitState(StrEnum):
    OPEN = "open"
    SETTLED = "settled"  # it has its one answer
    CLOSED = "closed"  # it will get none: another wait of its group won, or the run ended


WAIT_EDGES: dict[WaitState, frozenset[WaitState]] = {
    WaitState.OPEN: frozenset({WaitState.SETTLED, WaitState.CLOSED}),
    # Back to OPEN only by the run itself, when an answer that came unchecked turns out not to fit.
    WaitState.SETTLED: frozenset({WaitState.OPEN}),
    # Back to OPEN when the run is retried after it ended, or the winner of its group was refused.
    WaitState.CLOSED: frozenset({WaitState.OPEN}),
}


class WaitKind(StrEnum):
    APPROVAL = "approval"
    SIGNAL = "signal"
    CONDITION = "condition"  # a signal, or a poll that finds what the signal would have said
    EVENT = "event"  # something that Prefect observes
    TIMER = "timer"
    AGENT = "agent"  # another agent's run, which this one has started


NOBODY_ANSWERS = (WaitKind.TIMER, WaitKind.AGENT)
"""Kinds of wait that no person and no message settles."""

BY_SIGNAL = (WaitKind.SIGNAL, WaitKind.CONDITION, WaitKind.EVENT)
"""Kinds of wait that a signal settles."""


class Need(StrEnum):
    """How many waits of a group must settle before the run wakes."""

    ONE = "one"  # a group of one
    ANY = "any"
    ALL = "all"


class Outcome(StrEnum):
    """How a wait settled."""

    ANSWERED = "answered"
    DEFAULTED = "defaulted"  # the deadline passed and the default answer was taken
    TIMED_OUT = "timed_out"  # the deadline passed and there is no default


class Disposition(StrEnum):
    """What became of a signal. Every accepted signal has exactly one."""

    DELIVERED = "delivered"
    BUFFERED = "buffered"  # no wait for it yet; kept until one opens or its time is over
    DUPLICATE = "duplicate"  # this delivery was taken before
    LATE = "late"  # its wait has been settled or closed, or its run has ended
    UNMATCHED = "unmatched"  # kept for its time, and no wait ever asked for it
    REJECTED = "rejected"  # it does not fit what the wait asks for


class Verdict(StrEnum):
    """What became of one attempt to decide a wait, for the audit."""

    WON = "won"
    COUNTED = "counted"  # one of the several that its policy asks for
    LOST = "lost"  # another answer was first
    REFUSED = "refused"  # it did not fit


class NoticeKind(StrEnum):
    """What a party is told of a wait."""

    OPENED = "opened"
    REMINDER = "reminder"
    ESCALATED = "escalated"  # to this party, which was not asked before


class Door(StrEnum):
    """Where an answer came in."""

    PREFECT = "prefect"  # the Prefect UI's Resume form, or the Prefect API's /resume
    TERMINAL = "terminal"
    GATEWAY = "gateway"
    LINK = "link"  # a link of the gateway, made for one person
    A2A = "a2a"  # another agent, by the Agent2Agent protocol
    MCP = "mcp"  # another agent, by the Model Context Protocol
    SIGNAL = "signal"
    DEADLINE = "deadline"
    POLL = "poll"  # the keeper asked the source itself
    AGENT = "agent"  # the run that was waited for has ended


class Role(StrEnum):
    """What the holder of a gateway key may do."""

    SENDER = "sender"  # send signals
    APPROVER = "approver"  # see waits and answer them
    VIEWER = "viewer"  # see waits
    ADMIN = "admin"  # all of it


class Hold(StrEnum):
    """What stays of a run while it is parked."""

    PAUSE = "pause"  # the process, in Prefect's own pause
    SUSPEND = "suspend"  # nothing
    WARM = "warm"  # its coroutine, in a host, for as long as that is cheaper; for the server it is suspended


class Effect(StrEnum):
    REPEATABLE = "repeatable"  # may run again after a crash
    ONCE = "once"  # intent is recorded first; after a crash the outcome is looked up or asked for
