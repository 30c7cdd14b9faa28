"""An approver in the Prefect UI: what the page of a waiting run shows, and what its Resume form sends.

Prefect ships two UIs. A link to a run opens the older one, the server's front page opens version 2.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from uuid import UUID
from xml.sax.saxutils import escape

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect
from prefect.client.schemas.responses import SetStateStatus
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.agent_scope import scope_named
from standby.agents import HostIn, Permission, Rule
from standby.states import Verdict
from tasks.models import PaymentDecision, Receipt
from tasks.research_scope import research_scope
from tests.browser.installation import SAMPLES, Installation, installation
from tests.browser.pages import (
    LONGEST_WAIT,
    NewerPages,
    OlderPages,
    find_browser,
    new_profile,
    running_browser,
)
from tests.support.forks import Forks
from tests.support.server import PrefectServer

# One installation for all of them.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("browser")]
expect.set_options(timeout=LONGEST_WAIT * 1000)

HOSTILE = (
    """<script>window.taken = 1</script><img src="/taken.png" onerror="window.taken = 2">"""
    """[Pay](javascript:window.taken=3) ![](/taken.png) **now**"""
)
Pages = type[OlderPages]

FORM_DEFAULTS = {
    name: field["default"]
    for name, field in PaymentDecision.model_json_schema()["properties"].items()
    if "default" in field
}


@pytest.fixture(scope="module")
def program() -> str:
    found = find_browser()
    if found is None:
        pytest.skip("no chromium or google-chrome on the PATH")
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(program: str) -> AsyncIterator[Browser]:
    async with running_browser(program) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    program: str,
    tmp_path_factory: pytest.TempPathFactory,
    server_and_new_database: tuple[PrefectServer, Path],
    forks: Forks,
) -> AsyncIterator[Installation]:
    async with installation(tmp_path_factory.mktemp("browser"), server_and_new_database[1], forks) as up:
        yield up


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runs(place: Installation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The runs of this module by what they are for, all of them parked."""
    inbox = tmp_path_factory.mktemp("inbox")
    due = '<cbc:PayableAmount currencyID="EUR">{}</cbc:PayableAmount>'
    paid = '<cbc:PrepaidAmount currencyID="EUR">2500.00</cbc:PrepaidAmount>'
    less = ((due.format("7380.00"), paid + due.format("4880.00")), ("2026-00731", "2026-00732"))
    hostile = ((">Kantine Morgenrot e.K.<", f">{escape(HOSTILE)}<"), ("M-2611-07", "M-2611-66"))
    started = {
        "two people": await place.start("invoice-agent", path=str(SAMPLES / "02-over-limit.xml")),
        "filled in": await place.start("invoice-agent", path=edited("02-over-limit.xml", inbox, *less)),
        "untouched": await place.start("invoice-agent", path=str(SAMPLES / "03-price-differs.xml")),
        "too much": await place.start("invoice-agent", path=str(SAMPLES / "04-no-order.xml")),
        "timer": await place.start("waits-for-time"),
        "message": await place.start("waits-for-message"),
        "hostile": await place.start("invoice-agent", path=edited("04-no-order.xml", inbox, *hostile)),
    }
    # Together, which is faster; and all of them before anybody looks, while the machine has nothing else to do.
    for run_id in started.values():
        await place.parked(run_id)
    return started


def edited(sample: str, inbox: Path, *edits: tuple[str, str]) -> str:
    """The path of a copy of a sample, with these places changed."""
    text = (SAMPLES / sample).read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (inbox / sample).write_text(text)
    return str(inbox / sample)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def profile(browser: Browser) -> AsyncIterator[BrowserContext]:
    """One for all of them, as a person has: the two UIs are loaded once."""
    async with new_profile(browser, viewport={"width": 1280, "height": 900}) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def page(profile: BrowserContext) -> AsyncIterator[Page]:
    opened = await profile.new_page()
    yield opened
    await opened.close()


async def test_what_is_typed_into_the_form_is_what_the_agent_acts_on(
    place: Installation, runs: dict[str, str], page: Page
) -> None:
    """Question, evidence, form, Resume, and the run is watched to its end; the ledger says who decided what."""
    run_id = runs["filled in"]
    ui = OlderPages(page, place.pages)
    await ui.open(run_id)
    await expect(ui.state("Suspended")).to_be_visible()
    await ui.press_resume()
    await expect(ui.form.get_by_role("heading", level=3)).to_have_text(
        "Pay 4880.00 EUR to Diepblauw Serverbouw B.V. (NL900000663B01)?"
    )
    await expect(ui.row("Due")).to_have_text("4,880.00 EUR by 2026-12-04")
    await expect(ui.form).to_contain_text("4,880.00 EUR is above the limit of 1,000.00 EUR")
    await expect(ui.form).to_contain_text("Approve the payment: no; Comment: nobody answered in three days")

    await ui.field("Approve the payment").click()
    await ui.field("Amount to pay").fill("4500.5")
    await ui.field("Ledger account").fill("0655")
    await ui.field("Comment").fill("two were missing")
    typed = {"approved": True, "amount": 4500.5, "account": "0655", "comment": "two were missing"}
    assert await ui.submit() == (typed, "ACCEPT")

    await place.settle(run_id)
    receipt = Receipt.model_validate_json(await place.result(run_id))
    assert (receipt.amount, receipt.account, receipt.comment) == (Decimal("4500.50"), "0655", "two were missing")
    await expect(ui.state("Completed")).to_be_visible()

    [approval, settlement] = await place.ledger.waits.decisions_of(run_id)
    assert (approval.verdict, approval.door) == (Verdict.WON, "prefect")
    assert PaymentDecision.model_validate_json(approval.answer) == PaymentDecision.model_validate(typed)
    assert (settlement.verdict, settlement.door) == (Verdict.WON, "prefect")


async def test_a_question_for_two_people_says_that_it_is_not_answered_here(
    place: Installation, runs: dict[str, str], page: Page
) -> None:
    """Who submits it all the same has decided nothing: the run asks again, and says why."""
    run_id = runs["two people"]
    asked = await place.parked(run_id)
    ui = OlderPages(page, place.pages)
    await ui.open(run_id)
    await ui.press_resume()
    await expect(ui.form).to_contain_text("Not to be answered here, where nobody knows who answers: 2 people have to")
    await ui.field("Approve the payment").click()
    assert (await ui.submit()).verdict == "ACCEPT"
    again = await place.parked(run_id, attempt=2)
    assert again.id == asked.id
    assert "Prefect does not say who answers" in again.refused
    assert [each.verdict for each in await place.ledger.waits.decisions_of(run_id)] == [Verdict.REFUSED]


@pytest.mark.parametrize("pages", [OlderPages, NewerPages])
async def test_an_untouched_form_sends_what_it_shows(
    place: Installation, runs: dict[str, str], page: Page, pages: Pages
) -> None:
    """The switch is sent as off before anybody has touched it, a field left empty not at all, a default as it is."""
    ui = pages(page, place.pages)
    await ui.open(runs["untouched"])
    await ui.press_resume()
    await expect(ui.field("Ledger account")).to_have_value(FORM_DEFAULTS.get("account", ""))
    assert await ui.would_submit() == {"approved": False} | FORM_DEFAULTS
    await ui.field("Approve the payment").click()
    assert await ui.would_submit() == {"approved": True} | FORM_DEFAULTS


async def test_with_only_the_switch_turned_on_the_amount_due_is_paid(
    place: Installation, runs: dict[str, str], page: Page
) -> None:
    run_id = runs["untouched"]
    ui = NewerPages(page, place.pages)
    await ui.open(run_id)
    await expect(ui.state("Suspended")).to_be_visible()
    await ui.press_resume()
    await expect(ui.form.get_by_role("heading", level=3)).to_have_text(
        "Pay 913.92 EUR to Stuhlwerk Brandt GmbH (DE900000738)?"
    )
    await expect(ui.row("line 1 price")).to_have_text("+10.34 %")
    await ui.field("Approve the payment").click()
    assert await ui.submit() == ({"approved": True} | FORM_DEFAULTS, "ACCEPT")

    await place.settle(run_id)
    assert Receipt.model_validate_json(await place.result(run_id)).amount == Decimal("913.92")
    await expect(ui.state("Completed")).to_be_visible()
    [approval, _] = await place.ledger.waits.decisions_of(run_id)
    assert (approval.verdict, approval.door) == (Verdict.WON, "prefect")
    assert PaymentDecision.model_validate_json(approval.answer) == PaymentDecision(approved=True)


async def test_an_answer_that_the_agent_refuses_is_explained_on_the_reopened_page(
    place: Installation, runs: dict[str, str], page: Page
) -> None:
    """The form accepts the amount, the agent's check does not: the run wakes, refuses, and waits for a better one."""
    run_id = runs["too much"]
    asked = await place.parked(run_id)
    ui = NewerPages(page, place.pages)
    await ui.open(run_id)
    await ui.press_resume()
    await ui.field("Approve the payment").click()
    await ui.field("Amount to pay").fill("340.21")
    assert (await ui.submit()).verdict == "ACCEPT"

    assert (await place.parked(run_id, attempt=2)).id == asked.id
    for reopened in (OlderPages(page, place.pages), ui):
        await reopened.open(run_id)
        await reopened.press_resume()
        await expect(reopened.form).to_contain_text("The last answer was not accepted.")
        await expect(reopened.form).to_contain_text("amount: 340.21 is more than the 340.20 EUR that is due")

    await ui.field("Comment").fill("nobody ordered this")
    assert (await ui.submit()).verdict == "ACCEPT"
    receipt = Receipt.model_validate_json(await place.result(run_id))
    assert (receipt.outcome, receipt.comment) == ("declined", "nobody ordered this")
    decisions = await place.ledger.waits.decisions_of(run_id)
    assert [(each.verdict, each.door) for each in decisions] == [
        (Verdict.REFUSED, "prefect"),
        (Verdict.WON, "prefect"),
    ]


async def test_resume_on_a_run_that_waits_for_a_time_does_not_let_it_pass(
    place: Installation, runs: dict[str, str], page: Page
) -> None:
    run_id = runs["timer"]
    timer = await place.parked(run_id)
    ui = OlderPages(page, place.pages)
    await ui.open(run_id)
    await ui.press_resume()
    await expect(ui.form).to_contain_text("Do you want to resume this flow run?")
    assert (await ui.submit()).verdict == "ACCEPT"
    assert (await place.parked(run_id, attempt=2)).id == timer.id
    await expect(ui.state("Suspended")).to_be_visible()
    assert await place.ledger.waits.decisions_of(run_id) == []


async def test_resume_without_the_message_that_a_run_waits_for_is_refused(
    place: Installation, runs: dict[str, str], page: Page
) -> None:
    run_id = runs["message"]
    message = await place.parked(run_id)
    ui = NewerPages(page, place.pages)
    await ui.open(run_id)
    await ui.press_resume()
    await expect(ui.form.get_by_role("heading", level=3)).to_have_text("release for 4711")
    await expect(ui.form).to_contain_text("This run waits for a message, not for a person.")
    assert "is a required property" in (await ui.submit()).verdict
    result = await place.client.resume_flow_run(UUID(run_id))
    assert result.status is SetStateStatus.REJECT
    assert await place.parked(run_id) == message


@pytest.mark.parametrize("pages", [OlderPages, NewerPages])
async def test_what_a_stranger_wrote_is_shown_as_text(
    place: Installation, runs: dict[str, str], page: Page, pages: Pages
) -> None:
    """Script, image, link and emphasis in an invoice, in the question and in the evidence: nothing of it acts."""
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    ui = pages(page, place.pages)
    await ui.open(runs["hostile"])
    await ui.press_resume()
    await expect(ui.form.get_by_role("heading", level=3)).to_have_text(f"Pay 340.20 EUR to {HOSTILE} (DE900000812)?")
    await expect(ui.row("Supplier")).to_have_text(f"{HOSTILE} (DE900000812)"[:119] + "…")
    await expect(ui.form.locator("script, img, a")).to_have_count(0)
    assert await page.evaluate("window.taken") is None
    assert not [url for url in loaded if "taken" in url]


@pytest.mark.parametrize("pages", [OlderPages, NewerPages])
async def test_a_scope_that_is_edited_in_the_ui_is_what_an_agent_reads(
    place: Installation, page: Page, pages: Pages
) -> None:
    """One limit is changed in the form; rules, conditions and spans of time come back as they were."""
    host = HostIn(argument="url", hosts=("*.example.org",))
    block = research_scope()
    block.tools.append(Rule(tool="fetch_page", permission=Permission.ASK, when=(host,)))
    name = f"edited-{pages.__name__.lower()}"
    with temporary_settings({PREFECT_API_URL: str(place.client.api_url)}):
        block_id = await block.asave(name)
    prefix = pages.path.removesuffix("/runs/flow-run")
    await page.goto(f"{place.pages}{prefix}/blocks/block/{block_id}/edit")
    steps = page.get_by_role("spinbutton").first
    await expect(steps).to_have_value("80")
    await expect(page.get_by_text("A span of time as ISO 8601 has it").first).to_be_visible()
    await steps.fill("7")
    async with page.expect_response(lambda said: said.request.method == "PATCH") as saving:
        await page.get_by_role("button", name="Save").click()
    saved = await saving.value
    assert saved.ok, (saved.status, await saved.text())
    with temporary_settings({PREFECT_API_URL: str(place.client.api_url)}):
        read = await scope_named(name)()
    before = block.scope()
    assert read == before.model_copy(update={"budget": before.budget.model_copy(update={"steps": 7})})
