"""The program ``standby``, also as ``python -m standby``."""

import gc
import os
import sys

YOUNG = 50_000
"""So many new objects are looked through for garbage at a time. With 700, as usual, that is a fifth of all imports."""


def main() -> None:
    gc.set_threshold(YOUNG)
    if sys.argv[1:2] == ["up"]:
        # As its children are told, and before Prefect is imported, which would begin with a word about it.
        os.environ.setdefault("DO_NOT_TRACK", "1")
    # Forms and the functions of conditions are in modules of the project, which `python -m` finds there anyway.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    from standby.cli import main as terminal

    terminal()


if __name__ == "__main__":
    main()
