"""Every error Standby raises, drawn once.

    StandbyError
    ├── LedgerUnavailable (ConnectionError)    the ledger's database cannot be reached or written
    ├── UnknownRun (LookupError)               no run with this id in the ledger
    ├── UnknownWait (LookupError)              no wait with this id, or none open for this run
    ├── AnswerRefused (ValueError)             an answer does not fit what the wait asks for
    │   ├── SignalRefused                      a signal is not one that can be taken
    │   └── StartRefused                       a signal asks to start what cannot be started
    ├── NotAllowed (PermissionError)           somebody may not decide this wait
    ├── AgentFailed                            an agent that was started and waited for did not complete
    ├── ScopeStopped                           a model-driven agent has reached a limit of its scope
    ├── WaitTimedOut (TimeoutError)            a deadline passed and the wait has no default answer
    ├── StepError
    │   ├── NotStorable (TypeError)            a step's value cannot be stored as JSON and read back
    │   ├── CheckpointNotWritten               the step ran, its checkpoint could not be written
    │   ├── CheckpointDamaged                  a stored checkpoint does not match its digest
    │   ├── CheckpointUnreadable (ValueError)  a stored value no longer fits the step's return type
    │   └── StepFailed                         stands in, on a replay, for an error whose class is gone
    ├── JournalMismatch                        the code asks for other steps than the journal holds
    ├── AgentExited                            an agent's code would have ended the process it shares
    ├── CodeNotLoaded                          the code of a deployment is not there, or raises
    ├── RunStopped                             an attempt by hand has ended before its run has
    └── UsageError (RuntimeError)              Standby is used in a way that cannot be made durable

What is in ``stops`` are no errors but stop signals.
"""

from __future__ import annotations


class StandbyError(Exception):
    """Base of all errors of this library."""


class LedgerUnavailable(StandbyError, ConnectionError):
    def __init__(self, url: str, reason: object) -> None:
        why = str(reason) or type(reason).__name__  # a timeout's own text is empty
        super().__init__(
            f"The ledger at {url} cannot be used: {why}. "
            "Check STANDBY_LEDGER_URL, that the database runs, and that its disk has room."
        )


class UnknownRun(StandbyError, LookupError):
    def __init__(self, run_id: object, detail: str = "") -> None:
        super().__init__(
            f"There is no one agent run {run_id}: {detail}; give the run's id. `standby ps --all` lists all runs."
            if detail
            else f"There is no agent run {run_id} in the ledger. `standby ps --all` lists the ones it has."
        )


class UnknownWait(StandbyError, LookupError):
    def __init__(self, wait: object, detail: str = "") -> None:
        super().__init__(
            f"There is no wait to answer at {wait}{f': {detail}' if detail else ''}. `standby ps` lists the open waits."
        )


class NotAllowed(StandbyError, PermissionError):
    """Somebody may not decide a wait, or not once more. The text says why."""


class AgentFailed(StandbyError):
    """An agent that was started and waited for ended without a result.

    ``run_id``: its run. ``state``: ``failed`` or ``cancelled``. ``error``: what it failed with.
    """

    def __init__(self, run_id: str, state: str, error: str | None) -> None:
        self.run_id, self.state, self.error = run_id, state, error
        super().__init__(f"Run {run_id}, which this one waited for, {state}: {error or 'no reason is known'}")


class AnswerRefused(StandbyError, ValueError):
    """An answer that does not fit.

    ``problems`` holds one ``(field, reason)`` pair for each thing that is wrong; the field is dotted, or ``answer``
    for the whole.
    """

    def __init__(self, wait: object, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        listed = "; ".join(f"{field}: {reason}" for field, reason in problems)
        super().__init__(f"The answer to {wait} was refused, the run is still waiting. {listed}")


class SignalRefused(AnswerRefused):
    """A signal that was not taken. ``problems`` as for ``AnswerRefused``."""

    def __init__(self, topic: str, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        listed = "; ".join(f"{field}: {reason}" for field, reason in problems)
        ValueError.__init__(self, f"The signal {topic} was not taken. {listed}")


class StartRefused(AnswerRefused):
    """A signal that asks to start what cannot be started; it was not taken. ``problems`` as for ``AnswerRefused``."""

    def __init__(self, deployment: str, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        listed = "; ".join(f"{field}: {reason}" for field, reason in problems)
        ValueError.__init__(self, f"The signal was not taken, for it cannot start {deployment}. {listed}")


class ScopeStopped(StandbyError):
    """An agent has reached a limit of its scope. ``what``: which one, such as ``steps``; ``why`` in words.

    ``remedy``: a sentence that says what helps against this one.
    """

    def __init__(self, agent: str, what: str, why: str, remedy: str = "") -> None:
        self.agent, self.what, self.why = agent, what, why
        super().__init__(f"Agent {agent!r} was stopped by its scope: {why}. {remedy}".rstrip())


class WaitTimedOut(StandbyError, TimeoutError):
    """A wait's deadline passed and it has no default answer. Catch it to branch.

    Attributes: ``key`` is the wait's key in its run, ``reason`` what was waited for.
    """

    def __init__(self, key: str, reason: str) -> None:
        self.key, self.reason = key, reason
        super().__init__(f"Nobody answered {key!r} ({reason}) before its deadline.")


class StepError(StandbyError):
    """Base of what can go wrong with a step's checkpoint."""


class NotStorable(StepError, TypeError):
    def __init__(self, what: str, reason: object) -> None:
        super().__init__(
            f"The value of {what} cannot be stored as JSON and read back the same: {reason}. "
            "Return plain JSON values, dataclasses or Pydantic models, and annotate the return type."
        )


class CheckpointNotWritten(StepError):
    def __init__(self, run_id: object, key: str, reason: object) -> None:
        super().__init__(
            f"Step {key!r} of run {run_id} ran, but its checkpoint could not be written: {reason}. "
            "The run stops here rather than go on with a step it would forget; retry it when the ledger is well."
        )


class CheckpointDamaged(StepError):
    def __init__(self, run_id: object, key: str, reason: object) -> None:
        super().__init__(
            f"The checkpoint {key!r} of run {run_id} is damaged: {reason}. It is not recomputed silently. "
            "Restore the ledger from a backup, or cancel the run and start a new one."
        )


class CheckpointUnreadable(StepError, ValueError):
    def __init__(self, run_id: object, key: str, reason: object) -> None:
        super().__init__(
            f"The checkpoint {key!r} of run {run_id} no longer fits the return type in the code: {reason}. "
            "Let the type accept what older code stored (a default for a new field), then retry the run."
        )


class StepFailed(StepError):
    """The error of a step that the agent had caught, on a replay, when its own class can no longer be made.

    Where a class above that one can, it is an error of that class, too, with the same message. ``kind``: its own class.
    """

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {message}")


class JournalMismatch(StandbyError):
    """The code of a run changed, while it was parked, before the point it had reached."""

    def __init__(self, run_id: object, detail: str) -> None:
        super().__init__(
            f"Run {run_id} cannot go on with this code: {detail}. It stopped before doing anything new. "
            "Deploy code that keeps the steps the run has passed in their order, then retry the run; "
            "or start a new one."
        )


class UsageError(StandbyError, RuntimeError):
    """A use that cannot be made durable; the message says what to write instead."""


class CodeNotLoaded(StandbyError):
    """The code of a deployment cannot be loaded. ``raised``: what its own code raised, None where there is none."""

    def __init__(self, deployment: str, entrypoint: str, reason: str, raised: BaseException | None = None) -> None:
        super().__init__(
            f"Deployment {deployment!r} cannot be loaded from {entrypoint}: {reason}. Correct the file, or the "
            "entrypoint and deploy it again; until then its run is tried again ever more slowly."
        )
        self.raised = raised


class AgentExited(StandbyError):
    def __init__(self, error: BaseException) -> None:
        super().__init__(
            f"The agent's code raised {error!r}, which is to end a process. Only this run ends, and has failed: return "
            "from the agent, or raise an Exception."
        )


class RunStopped(StandbyError):
    """An attempt that was started by hand has ended before its run has."""

    def __init__(self, why: object) -> None:
        super().__init__(f"The run stopped here: {why} What it did is kept: run the same again, and it goes on.")
