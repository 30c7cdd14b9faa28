"""What agents are called where people read of them. Pure."""

from __future__ import annotations


def for_people(key: str) -> str:
    """An agent by the key of its ``run_agent``: its name, and of one in a tool of another whom it works for.

    ``top/1.1.delegate/child`` is ``child (for top)``.
    """
    *above, name = key.split("/")[::2]  # agents and the calls in which they are take turns
    return f"{name} (for {', for '.join(reversed(above))})" if above else name
