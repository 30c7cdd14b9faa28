"""A host's own log: each line says which run it is about, and which step or wait that is at."""

from __future__ import annotations

import logging
import sys

from standby.runs import current_run


class _WithRun(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        run = current_run.get()
        record.run = f"run {run.id} at {run.at or 'its begin'}: " if run is not None else ""
        return super().format(record)


def log_to_stderr() -> None:
    """Show what Standby logs, from INFO on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithRun("%(asctime)s %(levelname)s %(run)s%(message)s"))
    logger = logging.getLogger("standby")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
