"""The kinds of wait: what an agent stops for. A new kind is one class in a file of its own, named here.

Each says what row it is in the ledger, and reads its typed answer back from JSON.
"""

from standby.waits.agent import AgentFinished, Child, Finished
from standby.waits.answers import checked_answer, unknown_fields
from standby.waits.approval import Approval, Decision
from standby.waits.base import NOTHING, Wait
from standby.waits.condition import Condition, Poll
from standby.waits.event import PrefectEvent
from standby.waits.least import Least, least_of, too_little
from standby.waits.names import imported, type_name
from standby.waits.showing import NEEDED, WAITS_FOR, as_text, command_for, evidence_of, program, quoted, why_unanswered
from standby.waits.signal import Signal
from standby.waits.timer import Timer

__all__ = [
    "NEEDED", "NOTHING", "WAITS_FOR", "AgentFinished", "Approval", "Child", "Condition", "Decision", "Finished",
    "Least", "Poll", "PrefectEvent", "Signal", "Timer", "Wait", "as_text", "checked_answer", "command_for",
    "evidence_of", "imported", "least_of", "program", "quoted", "too_little", "type_name", "unknown_fields",
    "why_unanswered",
]  # fmt: skip
