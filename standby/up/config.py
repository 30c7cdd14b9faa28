"""What a project tells ``standby up`` in ``[tool.standby]`` of its ``pyproject.toml``.

[tool.standby]
pool = "agents"                                     # work pool the worker serves
bootstrap = "deployments.bootstrap"                 # module run once the server is up (python -m); of what
                                                    # it says lines that begin with "Note: " are shown
demo = "deployments.demo"                           # module that starts the demo; prints one JSON line a run
[tool.standby.processes]
bank = "python -m deployments.sandbox_bank"         # processes to run beside the worker
"""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from standby.errors import UsageError
from standby.values import summary


def _is_command(text: str) -> str:
    if not shlex.split(text):
        raise ValueError("it names no program")
    return text


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    pool: str = "agents"
    bootstrap: str | None = None
    demo: str | None = None
    processes: dict[str, Annotated[str, AfterValidator(_is_command)]] = {}


def read_config(folder: Path) -> Config:
    """The project's configuration; the defaults where it says nothing. Raises ``UsageError`` naming the key."""
    path = folder / "pyproject.toml"
    try:
        table = tomllib.loads(path.read_text()).get("tool", {}).get("standby", {}) if path.exists() else {}
        return Config.model_validate(table)
    except ValidationError as error:
        raise UsageError(f"[tool.standby] in {path}: {summary(error)}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.") from error
