"""How often the tests of races begin anew, each time with other dice: once or twice; ten times when all is asked for.

Each time is a hundred races or more on each database.
"""

import os

ALL = bool(os.environ.get("STANDBY_TEST_ALL"))
"""Whether everything is to be run, which takes hours: ``STANDBY_TEST_ALL=1``."""


def seeds(usually: int = 1) -> range:
    return range(10 if ALL else usually)
