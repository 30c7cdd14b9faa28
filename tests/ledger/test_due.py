"""What is due, on both databases: without what is on its way, and without those who have no room for more."""

from datetime import timedelta

from standby import Approval, Condition
from standby.ledger import Ledger
from standby.ledger.notices import Parties
from tests.ledger.acts import parked

SOON = timedelta(microseconds=1)


async def one() -> None:
    """Has no answer."""


async def One() -> None:
    """Another source, whose name differs by its case."""


async def test_polls_that_are_due_leave_out_who_is_asked_and_whose_source_is_busy(ledger: Ledger) -> None:
    for number, source in enumerate((one, One, one)):
        condition = Condition("paid", key=str(number), poll=source, every=SOON)
        await parked(ledger, [condition.row("paid")], run=f"run-{number}")
    assert [wait.correlation for wait in await ledger.polls.due()] == ["0", "1", "2"]
    [first, *_] = await ledger.polls.due()
    assert [wait.correlation for wait in await ledger.polls.due(asked=[first.id])] == ["1", "2"]
    assert [wait.correlation for wait in await ledger.polls.due(busy=[f"{__name__}:one"])] == ["1"]


async def test_notices_that_are_due_leave_out_what_is_sent_and_who_has_no_room(ledger: Ledger) -> None:
    for party in ("ada", "bob", "eve", None):
        await parked(ledger, [Approval("Pay?", party=party).row("approval")], run=f"run-{party}")

    async def due(parties: Parties | None = None) -> set[str | None]:
        return {notice.party for notice in await ledger.notices.due(parties=parties)}

    assert await due() == {"ada", "bob", "eve", None}
    assert await due(Parties({"ada": False, "bob": True}, others=True)) == {"bob", "eve", None}
    assert await due(Parties({"ada": False, "bob": True}, others=False)) == {"bob"}
    assert await due(Parties({}, others=True)) == {"ada", "bob", "eve", None}
    assert await due(Parties({}, others=False)) == set()
    sending = [notice.id for notice in await ledger.notices.due() if notice.party == "ada"]
    assert {notice.party for notice in await ledger.notices.due(sending=sending)} == {"bob", "eve", None}
