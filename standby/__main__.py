"""``python -m standby``: the terminal, where its program is not on the path."""

from standby.cli import main

main()
