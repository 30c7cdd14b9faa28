"""Take the pictures of the documentation: ``python -m tests.browser.screenshot [FILE]`` that of a waiting run, or with
``link [FILE]`` that of the page behind an approval link."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from playwright.async_api import expect

from tests.browser.installation import ROOT, SAMPLES, installation
from tests.browser.link_page import asked
from tests.browser.pages import OlderPages, find_browser, new_page, running_browser

FILE = ROOT / "docs" / "images" / "paused-run.png"
LINK_FILE = FILE.with_name("approval-link.png")
SIZE = {"width": 1020, "height": 1160}
"""In pixels; as high as it takes to show the whole of the question and of the form."""


async def take(file: Path) -> None:
    program = find_browser()
    if program is None:
        sys.exit("There is no chromium or google-chrome on the PATH.")
    with tempfile.TemporaryDirectory() as folder:
        async with installation(Path(folder)) as place, running_browser(program) as browser:
            run_id = await place.start("invoice-agent", path=str(SAMPLES / "04-no-order.xml"))
            await place.parked(run_id)
            async with new_page(browser, viewport=SIZE) as page:
                ui = OlderPages(page, place.pages)
                await ui.open(run_id)
                await expect(ui.state("Suspended")).to_be_visible()
                await ui.press_resume()
                await ui.field("Approve the payment").click()
                await ui.field("Comment").fill("Lunch for the auditors, ordered by telephone.")
                await page.mouse.move(5, 5)
                file.parent.mkdir(parents=True, exist_ok=True)
                await page.screenshot(path=file)
    print(f"{file.name}: {file.stat().st_size // 1024} KB")


async def take_link(file: Path) -> None:
    program = find_browser()
    if program is None:
        sys.exit("There is no chromium or google-chrome on the PATH.")
    with tempfile.TemporaryDirectory() as folder:
        async with (
            asked(f"sqlite:///{folder}/ledger.db") as question,
            running_browser(program) as browser,
            new_page(browser, viewport={"width": 720, "height": 900}) as page,
        ):
            await page.goto(question.link)
            await page.screenshot(path=file, full_page=True)
    print(f"{file.name}: {file.stat().st_size // 1024} KB")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["link"]:
        asyncio.run(take_link(Path(arguments[1]) if arguments[1:] else LINK_FILE))
    else:
        asyncio.run(take(Path(arguments[0]) if arguments else FILE))
