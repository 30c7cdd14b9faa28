"""The page behind an approval link, in a browser without JavaScript."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from standby.states import WaitState
from tests.browser.link_page import asked
from tests.browser.pages import find_browser, new_page, running_browser


async def test_a_person_reads_mistypes_corrects_and_approves(sqlite_url: str) -> None:
    """Enter approves nothing, what was typed is kept, and the browser finds nothing that the page forbids."""
    program = find_browser()
    if program is None:
        pytest.skip("no chromium or google-chrome on the PATH")
    async with asked(sqlite_url) as question, running_browser(program) as browser:
        async with new_page(browser, java_script_enabled=False) as page:
            complaints: list[str] = []
            requested: list[str] = []
            page.on("console", lambda message: complaints.append(message.text))
            page.on("request", lambda request: requested.append(f"{request.method} {request.url}"))
            await page.goto(question.link)
            await expect(page.get_by_role("heading", name="Pay invoice VP-2026-118")).to_be_visible()
            await expect(page.get_by_role("cell", name="+142.50").first).to_have_css("text-align", "right")
            await page.get_by_label("Amount in EUR").fill("-1")
            await page.get_by_label("Comment").fill("<b>by telephone</b>")
            await page.get_by_label("Amount in EUR").press("Enter")
            assert requested == [f"GET {question.link}"]
            await page.get_by_role("button", name="Approve").click()
            await expect(page.get_by_text("Input should be greater than 0")).to_be_visible()
            await expect(page.get_by_label("Comment")).to_have_value("<b>by telephone</b>")
            assert (await question.ledger.waits.get(question.wait.id)).state == WaitState.OPEN
            await page.get_by_label("Amount in EUR").fill("1842.50")
            await page.get_by_role("button", name="Approve").click()
            await expect(page.get_by_role("heading", name="Your answer counts")).to_be_visible()
            await page.goto(question.link)
            await expect(page.get_by_role("heading", name="This link has been used")).to_be_visible()
            assert {url.split(" ")[1] for url in requested} == {question.link}
            assert not [text for text in complaints if "status of 4" not in text], complaints
        [decision] = await question.ledger.waits.decisions_of("run")
        assert (decision.actor, decision.door, decision.verdict) == ("ada", "link", "counted")
