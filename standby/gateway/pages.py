"""The gateway's pages for people: HTML without scripts, in which whatever comes from outside is text.

Templates escape by themselves. Evidence is Markdown, rendered without raw HTML and without pictures, so that a page
loads nothing from anywhere. The headers have the browser hold it to that, and keep the address to itself.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from datetime import datetime
from functools import cache
from hashlib import sha256
from html import escape
from pathlib import Path
from time import thread_time
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt

from standby import clock, view

EVIDENCE_CHARS = 100_000
"""Characters of evidence that are shown."""

RENDER_SECONDS = 1.0
"""Processor time that Markdown may take. Ordinary evidence of the greatest length takes some tenths of it; what is made
to be slow is shown as the text that it is."""

_FOLDER = Path(__file__).parent / "templates"


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page from a template of this package."""
    html = _templates().get_template(template).render(style=_style(), **values)
    # Half a surrogate pair is no character, and what was typed may have one.
    return HTMLResponse(html.encode("utf-8", "replace"), status, headers=_headers())


async def rendered(markdown: str) -> str:
    """Markdown as HTML that is safe to show as it is; what is too long is cut, and says so.

    In a thread: others are answered meanwhile.
    """
    return await asyncio.to_thread(_rendered, markdown)


def _rendered(markdown: str) -> str:
    text = markdown[:EVIDENCE_CHARS]
    try:
        shown = str(_markdown().render(text, {_UNTIL: thread_time() + RENDER_SECONDS}))
    except _TooSlow:
        shown = f"<pre>{escape(text)}</pre>"
    return shown + ("<p>... (cut)</p>" if len(markdown) > EVIDENCE_CHARS else "")


class _TooSlow(Exception):
    """The Markdown takes more time than it may."""


_UNTIL = "until"
"""In a rendering's environment: when its processor time is over."""


def _in_time(state: Any, *_: Any) -> bool:
    """A rule that is tried at every line and at every place in one, and never fits."""
    if thread_time() > state.env[_UNTIL]:
        raise _TooSlow
    return False


def until(at: datetime) -> str:
    """A time to come, and how far it is."""
    left = (at - clock.utcnow()).total_seconds()
    return f"{view.moment(at)} (in {view.age(left)})" if left > 0 else view.moment(at)


@cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"moment": view.moment, "until": until}
    return made


@cache
def _style() -> str:
    return (_FOLDER / "page.css").read_text()


@cache
def _headers() -> dict[str, str]:
    style = b64encode(sha256(_style().encode()).digest()).decode()
    return {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'",
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "X-Robots-Tag": "noindex",
    }


@cache
def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    made.block.ruler.before("table", "in_time", _in_time, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    made.inline.ruler.before("text", "in_time", _in_time)
    made.add_render_rule("link_open", _link)
    for cell in ("th_open", "td_open"):
        made.add_render_rule(cell, _cell)
    return made


def _link(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    return str(self.renderToken(tokens, index, options, env))


def _cell(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """A column's alignment as a class: the page allows no styles in its elements."""
    style = str(tokens[index].attrs.pop("style", ""))
    if style:
        tokens[index].attrSet("class", style.removeprefix("text-align:"))
    return str(self.renderToken(tokens, index, options, env))
