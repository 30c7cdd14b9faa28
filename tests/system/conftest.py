"""For tests of the whole: projects of their own, whose processes are all gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project folder with nothing up."""
    made = Project(tmp_path / "project")
    yield made
    made.close()
