"""For tests of the whole: projects of their own, whose processes are all gone afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forks import Forks
from tests.system.project import Project


@pytest.fixture(scope="session")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Starts commands of the terminal, in a tenth of the time that they take to import what they need."""
    modules = ("standby.cli", "standby.keeper", "standby.up.stack")
    started = Forks(tmp_path_factory.mktemp("terminal"), os.environ, *modules)
    yield started
    started.close()


@pytest.fixture
def project(tmp_path: Path, terminal: Forks) -> Iterator[Project]:
    """A project folder with nothing up."""
    made = Project(tmp_path / "project", terminal)
    yield made
    made.close()
