"""The invoice agent's adviser, over the real wire: it proposes, from what is known, and decides nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from standby import Approval, Decision, agent, wait_for
from tasks.advise import advise
from tasks.apply_policy import apply_policy
from tasks.match_order import match_order
from tasks.models import Advice, Match
from tasks.read_invoice import read_invoice
from tests.fundamentals.conftest import Desk
from tests.invoices.documents import NO_ORDER, PRICE_DIFFERS, SAMPLES
from tests.research.conftest import Blocks
from tests.support.chat_server import ChatServer, Reply, calls, failure


@agent
async def advised(path: Path) -> Match:
    """As much of the invoice agent as comes to the question."""
    invoice = await read_invoice(path)
    match = await apply_policy(invoice, await match_order(invoice))
    match = await advise(invoice, match)
    await wait_for(Approval("Pay?", show=match.to_markdown(), form=Decision))
    return match


def proposes(**said: Any) -> Reply:
    return calls(("final_result", {"account": None, "reason": "", "differences": ""} | said))


async def test_a_proposal_is_put_before_the_person_who_decides(desk: Desk, blocks: Blocks, chat: ChatServer) -> None:
    chat.script = [proposes(account="9999", reason="all of it"), proposes(account="4930", reason="It is paper.")]
    run = await desk.start(advised, path=SAMPLES / NO_ORDER)
    [wait] = await run.open_waits()
    assert "Book on 4930: It is paper." in wait.evidence
    assert "| Book on | 4930 |" in wait.evidence
    await run.answer({"approved": True})
    match = await run.result()
    assert (match.advice.model, match.suggested_account) == ("test-model-1", "4930")
    assert [tool for asked in chat.asked for tool in asked.tools] == ["final_result"] * 2, "it has no tools"
    assert "9999" in chat.asked[1].results[0], "an account that nobody has used is no answer"
    [told] = [part["content"] for part in chat.asked[0].body["messages"] if part["role"] == "user"]
    assert "4930" in json.dumps(json.loads(told)["known accounts"])
    assert len(await run.waits()) == 1


async def test_differences_are_explained_and_an_orders_account_stays(
    desk: Desk, blocks: Blocks, chat: ChatServer
) -> None:
    chat.script = [proposes(account="0650", reason="no", differences="The list price rose in May.")]
    run = await desk.start(advised, path=SAMPLES / PRICE_DIFFERS)
    [wait] = await run.open_waits()
    assert "Differences: The list price rose in May." in wait.evidence
    await run.answer({"approved": True})
    match = await run.result()
    assert match.advice.account is None
    assert match.suggested_account == match.order_account


@pytest.mark.parametrize(
    "script",
    [lambda: [failure(500, "it is down")], lambda: [proposes(account="9999")] * 4, lambda: [proposes(account=7)] * 4],
    ids=["down", "stubborn", "absurd"],
)
async def test_a_model_that_fails_leaves_the_person_to_decide_alone(
    desk: Desk, blocks: Blocks, chat: ChatServer, script: Callable[[], list[Reply]]
) -> None:
    chat.script = list(script())
    run = await desk.start(advised, path=SAMPLES / NO_ORDER)
    [wait] = await run.open_waits()
    assert "The model test-model-1 has proposed nothing: " in wait.evidence
    asked = len(chat.asked)
    await run.answer({"approved": True})
    match: Match = await run.result()
    assert isinstance(match.advice, Advice)
    assert match.advice.failed
    assert match.suggested_account == "4000"
    assert len(chat.asked) == asked, "a replay asks it nothing"
