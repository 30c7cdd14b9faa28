"""The program ``standby``, also as ``python -m standby``."""

import gc

YOUNG = 50_000
"""So many new objects are looked through for garbage at a time. With 700, as usual, that is a fifth of all imports."""


def main() -> None:
    gc.set_threshold(YOUNG)
    from standby.cli import main as terminal

    terminal()


if __name__ == "__main__":
    main()
