"""Tool: fetch a page from the web, from hosts on a list, and read its text.

Each redirect is checked like the first address, and may be judged by whoever asks. No proxy of the environment is used,
for then it would be the proxy that resolves names, and a checked address would mean nothing.
"""

import asyncio
import codecs
import re
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import httpx
from pydantic import BaseModel

from tasks.errors import ToolFailed, ToolRefused
from tasks.page_text import Link, page_text, tidy
from tasks.public_address import Resolve, checked_address, is_listed, system_resolve

MOST_REDIRECTS = 5
LONGEST_URL = 2000
PORTS = {"http": 80, "https": 443}
READABLE = re.compile(r"text/|application/(?:[\w.-]+\+)?(?:json|xml)$")
AGENT = "Standby-research-agent"
ASKED = {"Accept": "text/html, text/*, application/json", "Accept-Encoding": "gzip"}
_CHARSETS = re.compile(r"ascii|utf-8|utf-16|utf-32|iso|cp|koi8|shift|euc_|gb|big5|mac")
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w-]{1,40})", re.IGNORECASE)


class Page(BaseModel):
    """What was found. ``url`` is where it was in the end; ``cut`` says that there was more of it."""

    url: str
    title: str = ""
    text: str
    links: list[Link] = []
    cut: bool = False


def open_client(seconds: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=seconds, trust_env=False, headers={"User-Agent": AGENT})


async def fetch_page(
    url: str,
    *,
    hosts: Sequence[str],
    may: Callable[[str], bool] = lambda hop: True,
    most_bytes: int = 2_000_000,
    most_characters: int = 30_000,
    seconds: float = 20.0,
    resolve: Resolve = system_resolve,
    client: Callable[[float], AbstractAsyncContextManager[httpx.AsyncClient]] = open_client,
) -> Page:
    """The readable text of the page at ``url``, over HTTP or HTTPS on their own ports.

    ``hosts``: whose pages may be fetched: ``example.org``, ``*.example.org`` (those below it) or ``*`` (any); none by
    an empty list. A host that is at a private, loopback or otherwise not public address is refused even if it is
    listed. ``may``: asked about the address that each redirect leads to; where it says False, the page has failed and
    the error says where it has moved. ``most_bytes``: how much is read of the answer, packed and again unpacked;
    ``most_characters``: how much of its text is returned. ``seconds``: for all of it, redirects included.
    Raises ToolRefused (it may not be fetched) or ToolFailed (no page came).
    """
    try:
        async with asyncio.timeout(seconds), client(seconds) as session:
            return await _follow(session, url, hosts, may, most_bytes, most_characters, resolve)
    except TimeoutError:
        raise ToolFailed(url, f"no page within {seconds:g} seconds", "Try again later, or another source.") from None
    except httpx.TimeoutException:
        raise ToolFailed(url, f"no answer within {seconds:g} seconds", "Try again later, or another source.") from None
    except httpx.HTTPError as error:
        said = str(error) or type(error).__name__
        raise ToolFailed(url, f"the connection failed ({said[:200]})", "Try again later, or another source.") from None


async def _follow(
    session: httpx.AsyncClient,
    url: str,
    hosts: Sequence[str],
    may: Callable[[str], bool],
    most_bytes: int,
    most_characters: int,
    resolve: Resolve,
) -> Page:
    target = url
    for _ in range(MOST_REDIRECTS + 1):
        parsed = _allowed(target, hosts)
        host = parsed.raw_host.decode("ascii").strip("[]")
        address = await checked_address(host, PORTS[parsed.scheme], target, resolve)
        request = session.build_request(
            "GET",
            parsed.copy_with(host=address, fragment=None),
            headers={"Host": parsed.netloc.decode("ascii"), **ASKED},
            extensions={"sni_hostname": host},  # and the certificate has to be the host's
        )
        response = await session.send(request, stream=True, follow_redirects=False)
        try:
            if response.has_redirect_location:
                hop = _location(response, parsed)
                if not may(hop):
                    raise ToolFailed(
                        target, f"it has moved to {hop}, where it may not be followed", "Ask for that address itself."
                    )
                target = hop
                continue
            if response.status_code != 200:
                raise ToolFailed(target, f"the answer was {response.status_code}", "Take another source.")
            return await _read(response, str(parsed), most_bytes, most_characters)
        finally:
            await response.aclose()
    raise ToolFailed(url, f"it redirects more than {MOST_REDIRECTS} times", "Take another source.")


def _location(response: httpx.Response, asked: httpx.URL) -> str:
    """Where a redirect leads."""
    try:
        return str(asked.join(response.headers["Location"]))
    except (httpx.InvalidURL, ValueError) as error:
        raise ToolFailed(
            str(asked), f"it leads to what is no address ({error})"[:LONGEST_URL], "Take another source."
        ) from None


def _allowed(url: str, hosts: Sequence[str]) -> httpx.URL:
    """The address, if it may be fetched as far as its text tells."""
    if len(url) > LONGEST_URL:
        raise ToolRefused(url, f"an address has at most {LONGEST_URL} characters")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ToolRefused(url, f"it is no address ({error})") from None
    if parsed.scheme not in PORTS or not parsed.host:
        raise ToolRefused(url, "only http:// and https:// addresses are fetched")
    if parsed.userinfo:
        raise ToolRefused(url, "an address with a user name or a password in it is not fetched")
    if parsed.port is not None:
        raise ToolRefused(url, f"port {parsed.port} is not one of HTTP's own, 80 and 443", "Leave the port out.")
    if not is_listed(parsed.host, hosts) and not is_listed(parsed.raw_host.decode("ascii"), hosts):
        allowed = ", ".join(hosts) or "none"
        raise ToolRefused(url, f"{parsed.host} is not on the list of hosts", f"Hosts that may be read: {allowed}.")
    return parsed


async def _read(response: httpx.Response, url: str, most_bytes: int, most_characters: int) -> Page:
    kind, _, parameters = response.headers.get("Content-Type", "text/plain").partition(";")
    kind = kind.strip().lower()
    if not READABLE.match(kind):
        raise ToolFailed(url, f"it is {kind[:100]}, not text", "Take another source.")
    packed, cut = await _body(response, most_bytes)
    body, cut_again = _unpacked(packed, response.headers.get("Content-Encoding", ""), url, most_bytes)
    text = _decoded(body, parameters)
    if "html" in kind:
        # In a thread, so that a long page keeps nobody else from working.
        found = await asyncio.to_thread(page_text, text, url)
        title, text, links = found.title, found.text, found.links
    else:
        title, text, links = "", tidy(text) if kind == "text/plain" else text.replace("\x00", ""), []
    cut = cut or cut_again or len(text) > most_characters
    return Page(url=url, title=title, text=text[:most_characters], links=links, cut=cut)


async def _body(response: httpx.Response, most: int) -> tuple[bytes, bool]:
    """What came, at most so many bytes of it, and whether there was more."""
    got = bytearray()
    async for piece in response.aiter_raw(64 * 1024):
        got += piece
        if len(got) > most:
            return bytes(got[:most]), True
    return bytes(got), False


def _unpacked(packed: bytes, encoding: str, url: str, most: int) -> tuple[bytes, bool]:
    """Unpacked no further than ``most`` bytes, however much is packed into it."""
    if encoding.strip().lower() in ("", "identity"):
        return packed, False
    if encoding.strip().lower() not in ("gzip", "x-gzip"):
        raise ToolFailed(url, f"it came packed as {encoding[:50]}, which was not asked for", "Take another source.")
    unpacker = zlib.decompressobj(wbits=31)
    try:
        body = unpacker.decompress(packed, most)
    except zlib.error as error:
        raise ToolFailed(url, f"it could not be unpacked ({error})", "Take another source.") from None
    return body, bool(unpacker.unconsumed_tail) or not unpacker.eof


def _decoded(body: bytes, parameters: str) -> str:
    named = re.search(r"charset\s*=\s*[\"']?([\w-]+)", parameters, re.IGNORECASE)
    stated = _META_CHARSET.search(body[:2000])
    charset = named[1] if named else stated[1].decode() if stated else "utf-8"
    try:
        known = codecs.lookup(charset).name
    except (LookupError, ValueError):
        known = "utf-8"
    # What is meant for pages, and not what Python knows besides: some of that takes quadratic time.
    return body.decode(known if _CHARSETS.match(known) else "utf-8", "replace")
