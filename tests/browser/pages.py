"""A person at a run's page, in either of the two UIs that Prefect ships."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, NamedTuple

from playwright.async_api import Browser, BrowserContext, Locator, Page, TimeoutError, async_playwright

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    # Version 2 of the UI calls home, whatever the server's settings say.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
FEWER_FRAMES = """
    window.requestAnimationFrame = draw => setTimeout(() => draw(performance.now()), 200);
    window.cancelAnimationFrame = clearTimeout;
"""
"""Drawing a run's graph at full speed without a graphics card takes a core for as long as its page is open."""

LONGEST_WAIT = 120.0
"""Seconds that a page may take to show what it should; it takes one or two on an idle machine."""


def find_browser() -> str | None:
    """The path of an installed Chromium or Chrome."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


@asynccontextmanager
async def running_browser(program: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def new_profile(browser: Browser, **options: Any) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(reduced_motion="reduce", **options)
    try:
        context.set_default_timeout(LONGEST_WAIT * 1000)
        await context.add_init_script(FEWER_FRAMES)
        yield context
    finally:
        await context.close()


@asynccontextmanager
async def new_page(browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """A page of a fresh profile."""
    async with new_profile(browser, **options) as profile:
        yield await profile.new_page()


class Sent(NamedTuple):
    """What a page sent to ``/resume``, and how the server answered: ``ACCEPT``, or the reason why not."""

    answer: Any
    verdict: str


class OlderPages:
    """The UI that links to a run open."""

    path = "/runs/flow-run"

    def __init__(self, page: Page, origin: str) -> None:
        self.page, self._origin = page, origin
        self.form = page.get_by_role("dialog")

    async def open(self, run_id: str) -> None:
        await self.page.goto(f"{self._origin}{self.path}/{run_id}")

    async def press_resume(self) -> None:
        await self.page.get_by_role("button", name="Resume").click()

    def field(self, title: str) -> Locator:
        """The switch or the input under this title in the form."""
        named = self.form.locator(".schema-form-property").filter(has_text=title)
        return named.get_by_role("switch").or_(named.get_by_role("spinbutton")).or_(named.get_by_role("textbox"))

    @property
    def submit_button(self) -> Locator:
        return self.form.get_by_role("button", name="Submit")

    async def submit(self) -> Sent:
        """Press the button, and again while the server is busy: on SQLite it is when others write at that moment."""
        for _ in range(10):
            async with self.page.expect_response("**/resume") as arriving:
                await self.submit_button.click()
            response = await arriving.value
            if response.status != HTTPStatus.SERVICE_UNAVAILABLE:
                break
        said = await response.json()
        asked = response.request.post_data_json or {}
        verdict = said["status"] if said["status"] == "ACCEPT" else said["details"]["reason"]
        return Sent(asked.get("run_input"), verdict)

    async def would_submit(self) -> Any:
        """What it would send; nothing reaches the server."""
        refuse = {"state": None, "status": "REJECT", "details": {"reason": "held back by the test"}}
        await self.page.route("**/resume", lambda route: route.fulfill(json=refuse))
        async with self.page.expect_response("**/resume") as refusing:
            await self.submit_button.click()
        asked = (await refusing.value).request.post_data_json
        await self.page.unroute("**/resume")
        return asked["run_input"]

    def state(self, name: str) -> Locator:
        """The badge that shows the run's state."""
        return self.page.locator(".state-badge").get_by_text(name, exact=True).first

    def row(self, title: str) -> Locator:
        """The value beside ``title`` in the evidence."""
        return self.form.get_by_role("row").filter(has_text=title).get_by_role("cell").last


class NewerPages(OlderPages):
    """Version 2, which the server's front page opens."""

    path = "/v2/runs/flow-run"

    async def press_resume(self) -> None:
        # By keyboard: the page's chart can lie over the button. The menu shuts when the page draws itself again
        # while it loads.
        for _ in range(10):
            await self.page.get_by_role("main").get_by_role("button", name="Open menu").press("Enter")
            try:
                await self.page.get_by_role("menuitem", name="Resume").press("Enter", timeout=15_000)
            except TimeoutError:
                await self.page.keyboard.press("Escape")
            else:
                return
        raise AssertionError("the page offers no Resume")

    def field(self, title: str) -> Locator:
        return self.form.get_by_label(title)

    @property
    def submit_button(self) -> Locator:
        return self.form.get_by_role("button", name="Resume")

    def state(self, name: str) -> Locator:
        return self.page.get_by_role("main").get_by_text(name, exact=True).first
