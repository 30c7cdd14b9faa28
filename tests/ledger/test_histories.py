"""Random histories: whatever runs, people, senders and keepers do to a ledger at once, its laws hold.

Four of them work on the same few runs through ledgers of their own, in an order that a seed decides as far as it can.
Triggers in the database write down every change of a state, so that no step in between is missed.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from standby import clock
from standby.ledger import Ledger
from standby.ledger.opening import WaitRow
from standby.states import (
    ENDED,
    RUN_EDGES,
    WAIT_EDGES,
    CheckpointState,
    Disposition,
    Door,
    Hold,
    Need,
    Outcome,
    RunState,
    Verdict,
    WaitKind,
    WaitState,
)  # fmt: skip
from tests.support.seeds import seeds

from .acts import LEASE
from .conftest import Connect

RUNS = ["a", "b", "c", "d"]
KEYS = ["1", "2"]
GROUPS = 5
SIGNAL_EDGES = {
    Disposition.BUFFERED: {Disposition.DELIVERED, Disposition.LATE, Disposition.UNMATCHED},
    Disposition.DELIVERED: {Disposition.REJECTED},
    Disposition.LATE: {Disposition.DELIVERED},  # when the wait that it came late for was opened anew
}

WATCH_SQLITE = [
    "CREATE TABLE taken (id INTEGER PRIMARY KEY, what TEXT, which TEXT, old TEXT, new TEXT, rise INTEGER)",
    """CREATE TRIGGER watch_runs AFTER UPDATE ON runs WHEN OLD.state <> NEW.state OR OLD.attempt <> NEW.attempt
    BEGIN INSERT INTO taken (what, which, old, new, rise)
        VALUES ('run', OLD.id, OLD.state, NEW.state, NEW.attempt - OLD.attempt); END""",
    """CREATE TRIGGER watch_waits AFTER UPDATE ON waits WHEN OLD.state <> NEW.state
    BEGIN INSERT INTO taken (what, which, old, new, rise) VALUES ('wait', OLD.id, OLD.state, NEW.state, 0); END""",
    """CREATE TRIGGER watch_signals AFTER UPDATE ON signals WHEN OLD.disposition <> NEW.disposition
    BEGIN INSERT INTO taken (what, which, old, new, rise)
        VALUES ('signal', OLD.id, OLD.disposition, NEW.disposition, 0); END""",
    """CREATE TRIGGER watch_checkpoints AFTER UPDATE ON checkpoints
    BEGIN INSERT INTO taken (what, which, old, new, rise)
        VALUES ('checkpoint', OLD.run_id || '/' || OLD.key, OLD.state, NEW.state, 0); END""",
]  # fmt: skip

WATCH_POSTGRES = [
    "CREATE TABLE taken (id SERIAL PRIMARY KEY, what TEXT, which TEXT, old TEXT, new TEXT, rise INTEGER)",
    """CREATE FUNCTION watch() RETURNS trigger AS $$
    DECLARE before jsonb := to_jsonb(OLD); after jsonb := to_jsonb(NEW); name text := TG_ARGV[1];
    BEGIN
        IF before->>name <> after->>name OR before->>'attempt' <> after->>'attempt' THEN
            INSERT INTO taken (what, which, old, new, rise) VALUES (
                TG_ARGV[0], coalesce(before->>'id', (before->>'run_id') || '/' || (before->>'key')),
                before->>name, after->>name,
                coalesce((after->>'attempt')::int - (before->>'attempt')::int, 0));
        END IF;
        RETURN NEW;
    END $$ LANGUAGE plpgsql""",
    *(
        f"CREATE TRIGGER watch_{what}s AFTER UPDATE ON {what}s FOR EACH ROW EXECUTE FUNCTION watch('{what}', '{state}')"
        for what, state in {
            "run": "state", "wait": "state", "signal": "disposition", "checkpoint": "state"
        }.items()
    ),
]  # fmt: skip


class World:
    """What is known outside the ledger."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.deliveries = 0
        self.acknowledged: list[str] = []
        self.seen: Counter[str] = Counter()

    def group(self, run: str, number: int) -> tuple[str, Need, list[WaitRow]]:
        """The waits that the code of the run asks for in this place; the same on every replay."""
        key = f"g{number}"
        dice = random.Random(f"{self.seed} {run} {key}")
        need = dice.choice([Need.ONE, Need.ANY, Need.ALL])
        rows = []
        for member in range(1 if need is Need.ONE else dice.randrange(2, 4)):
            due = dice.random() < 0.4
            common: dict[str, Any] = {
                "key": f"{key}/{member}",
                "reason": "because",
                "deadline": clock.utcnow() + timedelta(hours=dice.randrange(3)) if due else None,
                "has_default": due and dice.random() < 0.5,
                "default_answer": '"default"',
            }
            if dice.random() < 0.5:
                rows.append(WaitRow(kind=WaitKind.APPROVAL, **common))
            else:
                rows.append(WaitRow(kind=WaitKind.SIGNAL, topic="paid", correlation=dice.choice(KEYS), **common))
        return key, need, rows


class Worker:
    """Takes runs up, one after the other, and does what an attempt does, until it parks, ends, dies or is fenced."""

    def __init__(self, ledger: Ledger, world: World, dice: random.Random, mishaps: float = 1.0) -> None:
        self.ledger, self.world, self.dice, self.mishaps = ledger, world, dice, mishaps

    async def live(self, attempts: int) -> None:
        for _ in range(attempts):
            await self.attempt(self.dice.choice(RUNS))

    def chance(self, of: float) -> bool:
        return self.dice.random() < of * self.mishaps

    async def attempt(self, run: str) -> None:
        row = await self.ledger.runs.get(run)
        # Half of the time the one that has it is taken for dead, and may well not be.
        claim = await self.ledger.runs.claim(
            run, flow="f", name=run, deployment_id="d", holder=f"machine/{self.dice.random()}/0", lease=LEASE,
            presumed_dead=row.holder if row is not None and self.dice.random() < 0.5 else None,
        )  # fmt: skip
        if claim.attempt:
            self.world.seen[await self.work(run, claim.attempt)] += 1

    async def work(self, run: str, attempt: int) -> str:
        """How the attempt ended."""
        ledger = self.ledger
        recorded = {e.key for e in await ledger.checkpoints.journal(run) if e.state == CheckpointState.RECORDED}
        for number in range(GROUPS):
            key, need, rows = self.world.group(run, number)
            if key in recorded:
                continue
            if self.chance(0.05):
                return "died"
            for state in (CheckpointState.INTENDED, CheckpointState.RECORDED):
                text_ = json.dumps([run, attempt])
                if f"step {key}" not in recorded and not await ledger.checkpoints.write(
                    run, attempt, f"step {key}", number * 2, state, value=text_, digest="d"
                ):
                    return "fenced at a step"
            if self.chance(0.04):
                released = await ledger.runs.release(run, attempt)
                return "released" if released else "fenced at a release"
            if self.chance(0.04):
                failed = await ledger.runs.end(run, attempt, RunState.FAILED, error="it failed")
                return "failed" if failed else "fenced at a failure"
            if (how := await self.wait(run, attempt, key, number * 2 + 1, need, rows)) is not None:
                return how
        completed = await ledger.runs.end(run, attempt, RunState.COMPLETED, result="1")
        return "completed" if completed else "fenced at the end"

    async def wait(
        self, run: str, attempt: int, key: str, position: int, need: Need, rows: list[WaitRow]
    ) -> str | None:
        """Open the waits, and take their answers in or park. None when the attempt goes on."""
        ledger = self.ledger
        group = await ledger.waits.open(run, attempt, key, position, need, rows)
        if group is None:
            return "fenced at an opening"
        while True:
            if self.chance(0.05):
                return "died at a wait"
            answered = [wait for wait in group.waits if wait.outcome == Outcome.ANSWERED]
            if group.ready and answered and self.chance(0.2):
                if not await ledger.waits.refuse(run, attempt, self.dice.choice(answered).id, "it does not fit"):
                    return "fenced at a refusal"
                self.world.seen["refused"] += 1
            elif group.ready:
                answers = json.dumps([wait.answer for wait in group.waits])
                consumed = await ledger.waits.consume(run, attempt, key, answers, "digest")
                return None if consumed else "fenced at an answer"
            else:
                hold = self.dice.choice([Hold.SUSPEND, Hold.PAUSE])
                if (state := await ledger.runs.park(run, attempt, key, hold, "127.0.0.1:9")) is None:
                    return "fenced at parking"
                if hold is Hold.SUSPEND:
                    return f"suspended and {state}"
                await asyncio.sleep(self.dice.random() / 50)
                if not await ledger.runs.unpark(run, attempt):
                    return "fenced in a pause"
            group = await ledger.waits.group(run, key)


class Outside:
    """People, senders, keepers: one random thing after another."""

    def __init__(self, ledger: Ledger, world: World, dice: random.Random) -> None:
        self.ledger, self.world, self.dice = ledger, world, dice
        self.acts: list[tuple[float, Callable[[str], Awaitable[None]]]] = [
            (8, self.settle), (6, self.deliver), (4, self.expire), (0.3, self.cancel), (2, self.rescue), (2, self.tidy),
        ]  # fmt: skip

    async def live(self, acts: int) -> None:
        for _ in range(acts):
            [(_, act)] = self.dice.choices(self.acts, [weight for weight, _ in self.acts])
            await act(self.dice.choice(RUNS))

    async def settle(self, run: str) -> None:
        if waits := await self.ledger.waits.of_run(run):
            settled = await self.ledger.waits.settle(
                self.dice.choice(waits[-3:]).id, outcome=Outcome.ANSWERED, answer=f'"{self.dice.random()}"',
                door=Door.TERMINAL,
            )  # fmt: skip
            assert settled is not None
            self.world.seen["woken"] += settled.wake

    async def deliver(self, run: str) -> None:
        again = self.world.deliveries and self.dice.random() < 0.2
        number = self.dice.randrange(self.world.deliveries) if again else self.world.deliveries
        self.world.deliveries = max(self.world.deliveries, number + 1)
        delivery = await self.ledger.signals.deliver(
            source="bank", delivery_id=str(number), topic="paid", correlation=KEYS[number % len(KEYS)],
            payload=json.dumps(number),
        )  # fmt: skip
        self.world.acknowledged.append(delivery.signal_id)
        self.world.seen[delivery.disposition] += 1

    async def expire(self, run: str) -> None:
        for wait in await self.ledger.waits.due():
            await self.ledger.waits.expire(wait)

    async def cancel(self, run: str) -> None:
        self.world.seen["cancelled"] += await self.ledger.runs.end_from_outside(run, RunState.CANCELLED)

    async def rescue(self, run: str) -> None:
        row = await self.ledger.runs.get(run)
        if row is not None and await self.ledger.runs.rescue(run, row.attempt, row.holder):
            self.world.seen["rescued"] += 1

    async def tidy(self, run: str) -> None:
        await self.ledger.signals.expire()
        await self.ledger.waits.announced(await self.ledger.waits.unannounced())


@pytest.mark.parametrize("seed", seeds(2))
async def test_the_laws_hold_in_a_random_history(connect: Connect, seed: int) -> None:
    """G3, G5, G6, G8. And in the end every run can be brought to its end."""
    ledgers = [await connect() for _ in range(4)]
    await _watch(ledgers[0])
    world = World(seed)
    dice = random.Random(seed)
    workers = [Worker(ledger, world, random.Random(dice.random())) for ledger in ledgers]
    outsiders = [Outside(ledger, world, random.Random(dice.random())) for ledger in ledgers[:2]]
    for _ in range(4):
        await asyncio.gather(*(worker.live(4) for worker in workers), *(one.live(15) for one in outsiders))
        assert await broken(ledgers[0], world) == [], world.seen
    await _bring_to_an_end(ledgers[0], world)
    assert await broken(ledgers[0], world) == [], world.seen


async def _bring_to_an_end(ledger: Ledger, world: World) -> None:
    worker = Worker(ledger, world, random.Random(0), mishaps=0)
    while unfinished := [run for run in RUNS if not await _completed(ledger, run)]:
        for run in unfinished:
            row = await ledger.runs.get(run)
            if row is not None:
                await ledger.runs.release(run, row.attempt)
            await worker.attempt(run)
        for wait in await ledger.waits.open_ones():
            await ledger.waits.settle(wait.id, outcome=Outcome.ANSWERED, answer='"in the end"', door=Door.TERMINAL)


async def _completed(ledger: Ledger, run: str) -> bool:
    row = await ledger.runs.get(run)
    return row is not None and row.state == RunState.COMPLETED


async def _watch(ledger: Ledger) -> None:
    async with ledger.database.transaction() as connection:
        for statement in WATCH_SQLITE if ledger.database.sqlite else WATCH_POSTGRES:
            await connection.exec_driver_sql(statement)


async def broken(ledger: Ledger, world: World) -> list[str]:
    """Every law that does not hold."""
    return [
        *await _edges(ledger),
        *await _of_runs(ledger),
        *await _of_waits(ledger),
        *await _of_signals(ledger, world),
    ]


async def _edges(ledger: Ledger) -> list[str]:
    """Only the edges that ``states`` allows were ever taken, and an attempt number only rose, by one."""
    async with ledger.database.reading() as connection:
        taken = (await connection.execute(text("SELECT what, which, old, new, rise FROM taken ORDER BY id"))).all()
    wrong = []
    for what, which, old, new, rise in taken:
        if what == "run":
            stays = old == new and rise == 1
            fine = (new in RUN_EDGES[RunState(old)] or stays) and rise in (0, 1)
        elif what == "wait":
            fine = new in WAIT_EDGES[WaitState(old)]
        elif what == "signal":
            fine = new in SIGNAL_EDGES.get(Disposition(old), set())
        else:
            fine = old == CheckpointState.INTENDED
        if not fine:
            wrong.append(f"{what} {which} went from {old} to {new} ({rise:+})")
    return wrong


async def _of_runs(ledger: Ledger) -> list[str]:
    wrong = []
    for run in await ledger.runs.all(ended=True):
        opened = {wait.group_key for wait in await ledger.waits.open_ones([run.id])}
        if RunState(run.state) in ENDED and opened:
            wrong.append(f"run {run.id} is {run.state} and waits for {opened}")
        if run.state == RunState.PARKED and len(opened) != 1:
            wrong.append(f"run {run.id} is parked and waits for {opened}")
        if run.state == RunState.READY and run.attempt and run.hold is not None and run.ready_at is None:
            wrong.append(f"run {run.id} is ready since never")
    return wrong


async def _of_waits(ledger: Ledger) -> list[str]:
    """A settled wait was won once, any other never; of a group of any, one is settled and none is open beside it."""
    wrong = []
    for run in RUNS:
        decisions = await ledger.waits.decisions_of(run)
        won = Counter(decision.wait_id for decision in decisions if decision.verdict == Verdict.WON)
        answers = {decision.wait_id: decision.answer for decision in decisions if decision.verdict == Verdict.WON}
        groups: dict[str, list[Any]] = defaultdict(list)
        for wait in await ledger.waits.of_run(run):
            groups[wait.group_key].append(wait)
            if won[wait.id] != (wait.state == WaitState.SETTLED):
                wrong.append(f"wait {wait.key} of {run} is {wait.state} and was won {won[wait.id]} times")
            elif won[wait.id] and wait.outcome != Outcome.TIMED_OUT and answers[wait.id] != wait.answer:
                wrong.append(f"wait {wait.key} of {run} holds {wait.answer}, and {answers[wait.id]} had won")
        for key, waits in groups.items():
            states = Counter(wait.state for wait in waits)
            if waits[0].need == Need.ANY and (
                states[WaitState.SETTLED] > 1 or (states[WaitState.SETTLED] and states[WaitState.OPEN])
            ):
                wrong.append(f"of group {key} of {run} are {dict(states)}")
    return wrong


async def _of_signals(ledger: Ledger, world: World) -> list[str]:
    """Every acknowledged signal is there once; a delivered one is the answer of its wait, and of no other."""
    wrong = []
    signals = {signal.id: signal for signal in await ledger.signals.all()}
    if set(world.acknowledged) != set(signals):
        wrong.append(f"acknowledged {set(world.acknowledged) - set(signals)} and not kept, or the other way round")
    delivered = [signal for signal in signals.values() if signal.disposition == Disposition.DELIVERED]
    wrong += [f"wait {wait} was given {count} signals"
              for wait, count in Counter(signal.wait_id for signal in delivered).items() if count > 1]  # fmt: skip
    for signal in delivered:
        wait = await ledger.waits.get(signal.wait_id)
        if wait is None or wait.state != WaitState.SETTLED or wait.answer != signal.payload:
            wrong.append(f"signal {signal.delivery_id} is delivered to {wait}, which does not have it")
    waiting = {(wait.topic, wait.correlation) for wait in await ledger.waits.open_ones() if wait.topic is not None}
    for signal in signals.values():
        if signal.disposition == Disposition.BUFFERED and (signal.topic, signal.correlation) in waiting:
            wrong.append(f"signal {signal.delivery_id} is kept, and a wait for it is open")
    return wrong
