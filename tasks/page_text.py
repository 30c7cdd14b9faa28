"""The readable text of an HTML page, in one pass over it.

Pages come from strangers: a page that makes its reader slow must not stop the process it is read in, and with it every
agent there. The parsers at hand take minutes for a megabyte of open tags, so this looks at each character once, builds
no tree, and gets along with whatever is not closed.
"""

import re
from html import unescape
from urllib.parse import urljoin

from pydantic import BaseModel

MOST_LINKS = 50
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9:-]{0,40}")
_ATTRIBUTE = re.compile(r"""[\s/]*([^\s=>/"'<]{1,100})(?:\s*=\s*("[^"]*"|'[^']*'|[^\s>"'<]*))?""")
_LONG_NUMBER = re.compile(r"&#[xX]?[0-9a-fA-F]{8,}")
_SPACES = re.compile(r"[^\S\n]+")
_UNSEEN = {"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "select", "textarea", "title"}
"""Tags whose content is no text to read; it is left out up to the first end of the same tag."""
_BREAKS = {
    "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figure", "figcaption", "footer",
    "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section",
    "table", "tr", "ul",
}  # fmt: skip


class Link(BaseModel):
    text: str
    url: str


class PageText(BaseModel):
    title: str
    text: str
    links: list[Link]
    """The first 50 that lead to another page over HTTP."""


def page_text(html: str, url: str) -> PageText:
    """Title, text and links of a page that was found at ``url``."""
    lower = html.lower()
    if len(lower) != len(html):  # a few letters have no lower case of the same length
        lower = "".join(character.lower() if character.isascii() else character for character in html)
    said: list[str] = []
    links: list[Link] = []
    link: tuple[str, int] | None = None  # its address, and where in ``said`` it began
    title = _title(html, lower)
    at = 0
    while (opening := html.find("<", at)) >= 0:
        said.append(html[at:opening])
        if html.startswith("<!--", opening):
            at = _after(html, "-->", opening + 4)
            continue
        if html.startswith(("<!", "<?"), opening):
            at = _after(html, ">", opening)
            continue
        closes = html.startswith("</", opening)
        named = _NAME.match(html, opening + 1 + closes)
        if named is None:
            said.append("<")
            at = opening + 1
            continue
        tag = named[0].lower()
        at, address = _attributes(html, named.end())
        if tag in _UNSEEN and not closes:
            at = _after(html, ">", _after(lower, f"</{tag}", at))
        elif tag == "a":
            if link is not None:
                _add(links, link, said, url)
            link = None if closes or address is None else (address, len(said))
        elif tag in _BREAKS:
            said.append("\n- " if tag == "li" and not closes else "\n")
        elif tag in ("td", "th") and not closes:
            said.append(" | ")
    said.append(html[at:])
    return PageText(title=title, text=tidy(_plain("".join(said))), links=links)


def tidy(text: str) -> str:
    """Text without runs of spaces, and with at most one empty line between two others."""
    lines = [_SPACES.sub(" ", line).strip() for line in text.splitlines()]
    kept: list[str] = []
    for line in lines:
        if line not in ("", "-", "|") or (line == "" and kept and kept[-1]):
            kept.append(line)
    return "\n".join(kept).strip()


def _title(html: str, lower: str) -> str:
    start = lower.find("<title")
    if start < 0:
        return ""
    start = _after(html, ">", start)
    end = lower.find("</title", start)
    return " ".join(_plain(html[start : end if end >= 0 else start + 300]).split())[:300]


def _attributes(html: str, at: int) -> tuple[int, str | None]:
    """Where the tag ends, and the address it links to. A tag that never ends takes the rest of the page with it."""
    address: str | None = None
    while True:
        found = _ATTRIBUTE.match(html, at)
        if found is not None:
            at = found.end()
            if found[1].lower() == "href" and found[2] is not None and address is None:
                address = found[2].strip("\"'")
            continue
        while at < len(html) and (html[at].isspace() or html[at] == "/"):
            at += 1
        if at >= len(html):
            return at, None
        if html[at] == ">":
            return at + 1, address
        if html[at] == "<":  # the tag before it was not closed
            return at, address
        at += 1


def _add(links: list[Link], link: tuple[str, int], said: list[str], url: str) -> None:
    if len(links) >= MOST_LINKS:
        return
    try:
        address = urljoin(url, _plain(link[0]).strip())
    except ValueError:
        return
    text = " ".join(_plain("".join(said[link[1] :][:20])).split())[:200]
    if address.startswith(("http://", "https://")) and len(address) <= 2000:
        links.append(Link(text=text, url=address))


def _plain(text: str) -> str:
    """Without entities; numbers that stand for no character are dropped before they cost anything."""
    return unescape(_LONG_NUMBER.sub("", text)).replace("\x00", "")


def _after(text: str, end: str, at: int) -> int:
    found = text.find(end, at)
    return len(text) if found < 0 else found + len(end)
