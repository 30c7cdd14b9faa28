"""The ledger: the database of runs, checkpoints, waits, signals and decisions. Every SQL statement lives here."""

from __future__ import annotations

from sqlalchemy import select

from standby.ledger.chases import Chases
from standby.ledger.checkpoints import Checkpoints
from standby.ledger.children import Children
from standby.ledger.database import Database
from standby.ledger.deadlines import Deadlines
from standby.ledger.delegations import Delegations
from standby.ledger.events import Events
from standby.ledger.grants import Grants
from standby.ledger.holds import Holds
from standby.ledger.hosted import Hosted
from standby.ledger.keys import Keys
from standby.ledger.leases import Leases
from standby.ledger.listing import Listing
from standby.ledger.migrations import migrate
from standby.ledger.notices import Notices
from standby.ledger.notifications import Notifications
from standby.ledger.polls import Polls
from standby.ledger.purses import Purses
from standby.ledger.pushes import Pushes
from standby.ledger.runs import Runs
from standby.ledger.secrets import Secrets
from standby.ledger.signals import Signals
from standby.ledger.starts import Starts
from standby.ledger.tasks import Tasks
from standby.ledger.waits import Waits


class Ledger:
    """An open ledger. Made by ``Ledger.connect``; belongs to the event loop that made it.

    ``runs``, ``checkpoints``, ``waits``, ``signals``, ``leases``, ``keys``, ``secrets``, ``delegations``, ``notices``
    hold the statements by table; ``listing`` lists open waits, ``deadlines`` those of many deadlines at once,
    ``chases`` those of reminders and escalations, ``polls`` those of conditions, ``children`` those of agents that wait
    for agents, ``starts`` those of runs that signals start, ``events`` those of waits for Prefect's events, ``hosted``
    those of what hosts have, ``holds`` those of how runs are held while they wait, ``tasks`` those of runs as A2A
    tasks, ``pushes`` those of where their clients are told of them, ``grants`` those of approved calls of tools,
    ``purses`` those of what agents spend together. ``notifications`` tells at once who became READY (PostgreSQL).
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.runs = Runs(database)
        self.checkpoints = Checkpoints(database)
        self.waits = Waits(database)
        self.listing = Listing(database)
        self.signals = Signals(database)
        self.leases = Leases(database)
        self.keys = Keys(database)
        self.secrets = Secrets(database)
        self.delegations = Delegations(database)
        self.notices = Notices(database)
        self.chases = Chases(database)
        self.deadlines = Deadlines(database)
        self.polls = Polls(database)
        self.children = Children(database)
        self.events = Events(database)
        self.holds = Holds(database)
        self.starts = Starts(database)
        self.hosted = Hosted(database)
        self.tasks = Tasks(database)
        self.pushes = Pushes(database)
        self.grants = Grants(database)
        self.purses = Purses(database)
        self.notifications = Notifications(database)

    @classmethod
    async def connect(cls, url: str) -> Ledger:
        """Open the ledger at ``url`` (``sqlite:///file`` or ``postgresql://...``), making or migrating its tables.

        Raises ``LedgerUnavailable`` when the database cannot be reached or is newer than this library.
        """
        database = Database(url)
        try:
            await migrate(database)
        except BaseException:
            await database.close()
            raise
        return cls(database)

    async def answers(self) -> None:
        """Return when the database has answered. Raises ``LedgerUnavailable``."""
        await self.database.read(select(1))

    async def close(self) -> None:
        await self.database.close()


def compile_statements() -> None:
    """Compile the statements of both kinds of database, for the ledgers that this process and its forks open later.

    Nothing is connected to. It takes some 15 ms.
    """
    for url in ("sqlite:///ledger.db", "postgresql://localhost/ledger"):
        Ledger(Database(url))


__all__ = ["Ledger", "compile_statements"]
