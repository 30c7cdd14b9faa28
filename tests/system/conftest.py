"""For tests of the whole: projects of their own, whose processes are all gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forks import Forks
from tests.system.project import Project


@pytest.fixture
def project(tmp_path: Path, forks: Forks) -> Iterator[Project]:
    """A project folder with nothing up."""
    made = Project(tmp_path / "project", forks)
    yield made
    made.close()
