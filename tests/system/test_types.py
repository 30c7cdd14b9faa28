"""The strict type checker, beside the other tests and not before them: it takes a core for most of a minute."""

import subprocess
import sys

from tests.support.forks import ROOT


def test_the_types_hold() -> None:
    checked = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
