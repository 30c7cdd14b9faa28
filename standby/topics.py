"""Topics of signals that mean something to Standby itself."""

from __future__ import annotations

START = "standby.start"
"""By which other agents start runs; the key is who asked and in which request. Nobody else sends it."""

STOP = "agent.stop"
"""Stops the agent that thinks before its next model request, and all in whose tools it is; the key is the run's id."""
