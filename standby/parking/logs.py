"""What Prefect logs of an attempt, calm and as it was: no red for what is in order, no traceback twice, no pictures."""

from __future__ import annotations

import logging

from prefect.logging.handlers import PrefectConsoleHandler

from standby.runs import AgentRun, current_run

_CANCELLED = "Execution was cancelled by the runtime environment."

_LOGGED = "__standby_logged__"
"""The attribute of an error whose traceback a step's line in the log has. Attributes with such names are not stored."""


class _OfRuns(logging.Filter):
    """The engine logs the end of an attempt that parks at level ERROR; an operator should not see red for a wait. And
    it logs the traceback of an error that ends the run, after that of the step that raised it."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = str(record.msg)
        if record.levelno == logging.ERROR and said.startswith("Finished in state Suspended"):
            record.levelno, record.levelname = logging.INFO, "INFO"
        if record.exc_info and _is_logged(record.exc_info[1]) and said.startswith("Encountered exception during"):
            record.exc_info = None
        return True


class _OfSteps(logging.Filter):
    """Remembers of which errors the traceback is logged. And the engine calls a step that was under way when its
    attempt was ended a crash; that is how it is when a host stops, or somebody cancels a run."""

    def filter(self, record: logging.LogRecord) -> bool:
        said, run = str(record.msg), current_run.get()
        if record.levelno == logging.ERROR and _CANCELLED in said and run is not None and (why := _ended(run)):
            record.levelno, record.levelname = logging.INFO, "INFO"
            if said.startswith("Crash detected!"):
                record.msg = f"Cut off, for {why}."
        if record.exc_info and record.exc_info[1] is not None:
            vars(record.exc_info[1])[_LOGGED] = True
        return True


def _ended(run: AgentRun) -> str:
    """Why its attempt was ended from outside; empty if it was not."""
    if run.over:
        return "its run is over here"
    if run.fenced:
        return "this attempt has its run no more"
    return "its run is left to another process" if run.leaves else ""


def _is_logged(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_logged, error.exceptions))
    return error is not None and _LOGGED in vars(error)


_of_runs, _of_steps = _OfRuns(), _OfSteps()


def calm_logs() -> None:
    """Have Prefect's lines about runs and steps so in this process. Safe to call again."""
    logging.getLogger("prefect.flow_runs").addFilter(_of_runs)
    logging.getLogger("prefect.task_runs").addFilter(_of_steps)
    for name in (None, "prefect", "prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.console._emoji = False  # else it makes a picture of ":ID:", which may be data
