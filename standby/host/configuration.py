"""What a deployment, or the work pool, says about how a host runs its agents."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from prefect.workers.process import ProcessJobConfiguration, ProcessVariables
from pydantic import Field

from standby.host.place import attempt_command


class Isolation(StrEnum):
    """``auto``: beside others where that can be, else in a process of its own."""

    AUTO = "auto"
    SHARED = "shared"
    PROCESS = "process"


ISOLATION: Any = Field(
    default=Isolation.AUTO,
    description="Whether an agent shares the host's process with others: auto (where it can), shared (or it is refused)"
    " or process (it has one of its own).",
)


class HostConfiguration(ProcessJobConfiguration):
    isolation: Isolation = ISOLATION

    @property
    def command_of_its_own(self) -> bool:
        """Whether somebody has chosen a command; the one that forks attempts comes with ``standby up``."""
        return self.command is not None and self.command != attempt_command()


class HostVariables(ProcessVariables):
    isolation: Isolation = ISOLATION
