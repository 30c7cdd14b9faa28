"""Steps that must not act twice: ``effect="once"``.

A crash between acting and recording is played by a step that raises when it has acted: all the journal then has is the
intent.
"""

import asyncio

import pytest

from standby import AnswerRefused, UsageError, agent, idempotency_key, step
from tests.fundamentals.conftest import Desk


class Bank:
    """Pays when asked; its first answer is lost."""

    def __init__(self, *, pays_first: bool = True) -> None:
        self.payments: dict[str, str] = {}
        self.asked_to_pay = 0
        self.pays_first = pays_first

    def pay(self, key: str) -> str:
        self.asked_to_pay += 1
        lost = self.asked_to_pay == 1
        if self.pays_first or not lost:
            self.payments[key] = f"payment {len(self.payments) + 1}"
        if lost:
            raise ConnectionError("the answer of the bank was lost")
        return self.payments[key]


def test_a_probe_must_be_able_to_say_that_it_happened():
    async def find() -> None:
        return None

    with pytest.raises(UsageError, match="whose None says that it did not happen"):

        @step(effect="once", probe=find)
        async def tell() -> None: ...


@pytest.mark.parametrize(("happened", "asked"), [(True, 1), (False, 2)])
async def test_a_probe_tells_whether_it_happened(desk: Desk, happened: bool, asked: int):
    """What the probe finds is the step's result; if it finds None the step acts."""
    bank = Bank(pays_first=happened)

    async def find_payment(amount: int) -> str | None:
        return bank.payments.get(idempotency_key())

    @step(effect="once", probe=find_payment)
    async def pay(amount: int) -> str:
        return bank.pay(idempotency_key())

    @agent
    async def payer() -> str:
        return await pay(10)

    run = await desk.start(payer)
    with pytest.raises(ConnectionError):
        await run.result()
    assert await run.journal() == {"pay": "intended"}
    assert await run.again() == "payment 1"
    assert (bank.payments, bank.asked_to_pay) == ({f"{run.id}/pay": "payment 1"}, asked)


@pytest.mark.parametrize(
    ("answer", "result", "asked"),
    [({"happened": True, "result": '"seen"'}, "seen", 1), ({"happened": False}, "payment 2", 2)],
)
async def test_without_a_probe_a_person_is_asked(desk: Desk, answer: dict[str, object], result: str, asked: int):
    """The run waits for them: it happened, with this result, or it did not, and then the step acts."""
    bank = Bank()

    @step(effect="once")
    async def pay() -> str:
        return bank.pay(str(bank.asked_to_pay))

    @agent
    async def payer() -> str:
        return await pay()

    run = await desk.start(payer)
    with pytest.raises(ConnectionError):
        await run.result()
    run.begin()
    [wait] = await run.open_waits()
    assert wait.reason == "Did step 'pay' happen?"
    await run.answer(answer)
    assert await run.result() == result
    assert bank.asked_to_pay == asked


async def test_an_answer_about_a_step_has_the_fields_of_the_form(desk: Desk):
    """A misspelt field is refused by name, and the run waits on."""
    bank = Bank()

    @step(effect="once")
    async def pay() -> str:
        return bank.pay("key")

    @agent
    async def payer() -> str:
        return await pay()

    run = await desk.start(payer)
    with pytest.raises(ConnectionError):
        await run.result()
    run.begin()
    with pytest.raises(AnswerRefused, match="hapened: the form has no such field"):
        await run.answer({"hapened": True})
    await run.answer({"happened": True, "result": '"seen"'})
    assert await run.result() == "seen"


def test_retries_of_a_step_that_acts_once_need_a_probe():
    """A failed try may have acted."""

    async def pay() -> None: ...

    with pytest.raises(UsageError, match="Give it a probe"):
        step(effect="once", retries=2)(pay)


def test_a_timeout_of_a_step_that_acts_once_needs_async():
    """The thread of another could not be stopped, and might act while the probe says that it did not."""

    def pay() -> None: ...

    with pytest.raises(UsageError, match="Write it async"):
        step(effect="once", timeout_seconds=1)(pay)


async def test_what_the_agent_has_left_running_acts_no_more_when_it_ends(desk: Desk):
    """It fails beside a step that acts once: that is cut off before the run has failed, and a retry asks the probe."""
    bank, answers, asked = Bank(), asyncio.Event(), asyncio.Event()
    bank.asked_to_pay = 1

    async def find_payment() -> str | None:
        return bank.payments.get(idempotency_key())

    @step(effect="once", probe=find_payment)
    async def pay() -> str:
        asked.set()
        await answers.wait()
        return bank.pay(idempotency_key())

    @step
    async def look_up() -> None:
        await asked.wait()
        if not answers.is_set():
            raise ValueError("the shop does not answer")

    @agent
    async def buyer() -> None:
        await asyncio.gather(look_up.with_options(key="look")(), pay.with_options(key="pay")())

    run = await desk.start(buyer)
    with pytest.raises(ValueError, match="the shop"):
        await run.result()
    assert await run.journal() == {"pay": "intended"}
    answers.set()
    await asyncio.sleep(0)
    assert bank.asked_to_pay == 1, "it was cut off"
    await run.again()
    assert (bank.payments, bank.asked_to_pay) == ({f"{run.id}/pay": "payment 1"}, 2)
