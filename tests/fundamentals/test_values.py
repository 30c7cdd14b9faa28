"""Values: what crosses a checkpoint is JSON, read back by its annotation."""

import os
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel

from standby import agent, settings, step
from standby.errors import CheckpointDamaged, CheckpointUnreadable, NotStorable
from standby.spill import folder_beside
from tests.fundamentals.conftest import Desk, Interruption


class Quote(BaseModel):
    price: Decimal
    at: datetime


class QuoteOfToday(Quote):
    currency: str


async def test_a_value_comes_back_as_what_its_annotation_says(desk: Desk, interruption: Interruption):
    """The first attempt already gets the value that was read back, so it sees what every replay will see."""
    seen = []

    @step
    async def fetch() -> tuple[Quote, bytes, dict[int, str]]:
        return Quote(price=Decimal("1.10"), at=datetime(2026, 1, 2, tzinfo=UTC)), b"\x01", {1: "one"}

    @step
    async def loose() -> list:
        return [(1, 2)]

    @agent
    async def reader() -> None:
        seen.append((await fetch(), await loose()))
        interruption()

    run = await desk.interrupted(reader)
    await run.again()
    first, again = seen
    assert first == again
    assert first[0] == (Quote(price=Decimal("1.10"), at=datetime(2026, 1, 2, tzinfo=UTC)), b"\x01", {1: "one"})
    assert first[1] == [[1, 2]], "an annotation that says less gets less back"


async def test_a_value_that_cannot_be_stored_is_refused_by_name(desk: Desk):
    """At once, and not when a replay would read something else."""

    @step
    async def measure() -> float:
        return float("nan")

    @agent
    async def meter() -> float:
        return await measure()

    run = await desk.start(meter)
    with pytest.raises(NotStorable, match="step 'measure'"):
        await run.result()
    assert await run.journal() == {}


async def test_a_large_value_spills_and_comes_back(desk: Desk, interruption: Interruption):
    """Beside a SQLite ledger it is kept in a file; the step returns it all the same."""
    large = "x" * (settings.SPILL_OVER + 1)

    @step
    async def download() -> str:
        return large

    @agent
    async def reader() -> bool:
        found = await download()
        interruption()
        return found == large

    run = await desk.interrupted(reader)
    entry = await desk.ledger.checkpoints.find(run.id, "download")
    assert entry is not None
    assert (entry.value, len(spilled())) == (None, 1)
    assert await run.again() is True


async def test_a_damaged_value_is_not_used(desk: Desk, interruption: Interruption):
    """Nor is it computed anew in silence."""
    calls = []

    @step
    async def download() -> str:
        calls.append("download")
        return "x" * (settings.SPILL_OVER + 1)

    @agent
    async def reader() -> int:
        found = await download()
        interruption()
        return len(found)

    run = await desk.interrupted(reader)
    [file] = spilled()
    file.write_text(file.read_text().replace("x", "y", 1))
    with pytest.raises(CheckpointDamaged, match="'download'"):
        await run.again()
    assert calls == ["download"]


def spilled() -> list[Path]:
    return list(folder_beside(os.environ["STANDBY_LEDGER_URL"]).iterdir())


async def test_a_checkpoint_of_an_older_type_fails_by_the_name_of_the_field(desk: Desk, interruption: Interruption):
    """The new code must accept what older code has stored; until it does, the run stops and nothing is lost."""

    @step(name="fetch")
    async def fetch() -> Quote:
        return Quote(price=Decimal(1), at=datetime(2026, 1, 2, tzinfo=UTC))

    @step(name="fetch")
    async def fetch_today() -> QuoteOfToday:
        raise AssertionError("a step that completed never runs again")

    def shop_with(source):
        @agent(name="shop")
        async def shop() -> str:
            quote = await source()
            interruption()
            return str(quote.price)

        return shop

    run = await desk.interrupted(shop_with(fetch))
    with pytest.raises(CheckpointUnreadable, match=r"'fetch'.*currency: Field required"):
        await run.again(shop_with(fetch_today))
    assert await run.again(shop_with(fetch)) == "1"
