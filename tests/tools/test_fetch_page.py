"""Fetching a page: what may be fetched, where the connection goes, and how much of it is taken."""

from __future__ import annotations

import asyncio
import gzip
import ssl

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.addresses import is_public
from tasks.errors import ToolFailed, ToolRefused
from tasks.fetch_page import fetch_page, open_client
from tasks.public_address import is_listed
from tests.tools.web import PUBLIC, Web


@pytest.fixture
def web() -> Web:
    return Web()


async def test_a_page_comes_as_text_with_its_title_and_links(web: Web) -> None:
    web.page(
        "example.org/a",
        "<title>News &amp; more</title><style>p{}</style><h1>Today</h1><p>One <b>thing</b>.</p>"
        "<script>alert('<p>no</p>')</script><ul><li>first<li>second</ul><a href='/b?x=1'>further <i>on</i></a>",
    )
    page = await web.fetch("https://example.org/a#part", "example.org")
    assert (page.title, page.url, page.cut) == ("News & more", "https://example.org/a#part", False)
    assert page.text == "Today\n\nOne thing.\n\n- first\n- second\nfurther on"
    assert [(link.text, link.url) for link in page.links] == [("further on", "https://example.org/b?x=1")]
    assert web.connected == [PUBLIC], "the connection goes to the address that was checked"


@pytest.mark.parametrize(
    ("host", "listed", "allowed"),
    [
        ("example.org", ["example.org"], True),
        ("EXAMPLE.org.", ["example.org"], True),
        ("www.example.org", ["example.org"], False),
        ("www.example.org", ["*.example.org"], True),
        ("example.org", ["*.example.org"], False),
        ("badexample.org", ["*.example.org", "example.org"], False),
        ("example.org.evil.com", ["example.org", "*.example.org"], False),
        ("anything.at", ["*"], True),
        ("anything.at", [], False),
    ],
)
def test_the_list_of_hosts(host: str, listed: list[str], allowed: bool) -> None:
    assert is_listed(host, listed) is allowed


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a", "file:///etc/passwd", "//example.org/a", "example.org", "", "https://", "http://[::1",
        "https://example.org:8443/", "http://example.org:443/", "https://user:key@example.org/", "javascript:alert(1)",
        "https://evil.com/?example.org", "https://evil.com\\@example.org/", "https://example.org@evil.com/",
        "https://example.org%2eevil.com/", "https://example.org/" + "a" * 2000,
    ],
    ids=range(16),
)  # fmt: skip
async def test_an_address_outside_the_list_is_refused_before_a_connection(web: Web, url: str) -> None:
    with pytest.raises(ToolRefused):
        await web.fetch(url, "example.org")
    assert web.connected == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "198.18.0.1", "168.63.129.16", "192.0.0.192", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1",
        "2002:7f00:1::", "2001:0:1::1", "2001:db8::1", "3fff::1", "2600::5efe:7f00:1", "not an address", "",
    ],
)  # fmt: skip
async def test_a_listed_host_at_an_address_that_is_not_public_is_refused(web: Web, address: str) -> None:
    web.addresses["example.org"] = [[PUBLIC, address]]
    with pytest.raises(ToolRefused, match="no public address"):
        await web.fetch("https://example.org/", "*")
    assert web.connected == []


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address, translated=False)


@given(st.ip_addresses(v=4))
def test_no_private_ipv4_address_passes_in_any_ipv6_clothing(address: object) -> None:
    for clothed in (f"::ffff:{address}", f"::{address}", f"64:ff9b::{address}", f"2600::5efe:{address}"):
        assert not is_public(clothed, translated=False)


@pytest.mark.parametrize("literal", ["http://127.0.0.1/", "http://2130706433/", "http://0x7f.1/", "http://[::1]/"])
async def test_this_machine_is_not_reached_by_any_spelling(literal: str) -> None:
    """With the system's own resolver, which knows them all."""
    with pytest.raises(ToolRefused, match="no public address"):
        await fetch_page(literal, hosts=["*"])


async def test_a_name_that_changes_its_address_after_the_check_is_not_asked_again(web: Web) -> None:
    web.addresses["example.org"] = [[PUBLIC], ["127.0.0.1"]]
    web.page("example.org/", "hello")
    assert (await web.fetch("http://example.org/", "example.org")).text == "hello"
    assert web.connected == [PUBLIC]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://inside.example.org/", "no public address"),
        ("https://evil.com/", "not on the list"),
        ("file:///etc/passwd", "only http"),
        ("//evil.com/x", "not on the list"),
    ],
)
async def test_each_redirect_is_checked(web: Web, target: str, why: str) -> None:
    web.addresses["inside.example.org"] = [["192.168.0.7"]]
    web.page("example.org/", status=302, location=target)
    with pytest.raises(ToolRefused, match=why):
        await web.fetch("https://example.org/", "example.org", "*.example.org")
    assert web.connected == [PUBLIC]


async def test_a_redirect_goes_no_further_than_whoever_asks_lets_it_and_says_where_it_leads(web: Web) -> None:
    web.page("example.org/old", status=302, location="/new")
    web.page("example.org/new", status=302, location="http://other.example/now?a=1")
    judged: list[str] = []

    def may(hop: str) -> bool:
        judged.append(hop)
        return hop.startswith("https:")

    with pytest.raises(ToolFailed, match=r"has moved to http://other\.example/now\?a=1, where it may not be followed"):
        await web.fetch("https://example.org/old", "*", may=may)
    assert judged == ["https://example.org/new", "http://other.example/now?a=1"], "the first was judged before"
    assert web.connected == [PUBLIC] * 2


@pytest.mark.parametrize(
    ("status", "headers", "why"),
    [
        (301, {}, "the answer was 301"),
        (300, {}, "the answer was 300"),
        (304, {"location": "/b"}, "the answer was 304"),
        (302, {"location": "http://example.org:x/"}, "[Ii]nvalid|no address"),
    ],
)
async def test_a_redirect_that_leads_nowhere_is_said(web: Web, status: int, headers: dict[str, str], why: str) -> None:
    web.page("example.org/", status=status, **headers)
    with pytest.raises(ToolFailed, match=why):
        await web.fetch("https://example.org/", "*")


async def test_redirects_are_followed_and_counted(web: Web) -> None:
    for number in range(6):
        web.page(f"example.org/{number}", status=301, location=f"/{number + 1}")
    web.page("example.org/6", "far")
    assert (await web.fetch("https://example.org/1", "example.org")).url == "https://example.org/6"
    with pytest.raises(ToolFailed, match="more than 5 times"):
        await web.fetch("https://example.org/0", "example.org")


async def test_what_is_packed_is_unpacked_no_further_than_the_limit(web: Web) -> None:
    web.page("example.org/small", gzip.compress(b"<p>packed</p>"), content_encoding="gzip")
    web.page("example.org/bomb", gzip.compress(b"a" * 50_000_000), content_encoding="gzip", content_type="text/plain")
    web.page("example.org/other", b"x", content_encoding="br")
    web.page("example.org/broken", b"no gzip", content_encoding="gzip")
    assert (await web.fetch("https://example.org/small", "example.org")).text == "packed"
    bomb = await web.fetch("https://example.org/bomb", "example.org", most_bytes=100_000, most_characters=200_000)
    assert (len(bomb.text), bomb.cut) == (100_000, True)
    for path in ("other", "broken"):
        with pytest.raises(ToolFailed, match="pack"):
            await web.fetch(f"https://example.org/{path}", "example.org")


async def test_a_long_page_is_cut_and_says_so(web: Web) -> None:
    web.page("example.org/", "word " * 10_000)
    page = await web.fetch("https://example.org/", "example.org", most_characters=100)
    assert (len(page.text), page.cut) == (100, True)
    page = await web.fetch("https://example.org/", "example.org", most_bytes=1000)
    assert (len(page.text) <= 1000, page.cut) == (True, True)


@pytest.mark.parametrize(
    ("status", "kind", "why"), [(404, "text/html", "404"), (500, "text/html", "500"), (200, "image/png", "image/png")]
)
async def test_what_is_no_page_is_said_by_name(web: Web, status: int, kind: str, why: str) -> None:
    web.page("example.org/", b"\x89PNG", status, content_type=kind)
    with pytest.raises(ToolFailed, match=why):
        await web.fetch("https://example.org/", "example.org")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html; charset=iso-8859-1", "café".encode("latin-1")),
        ("text/html", '<meta charset="windows-1252">café'.encode("cp1252")),
        ("text/html; charset=nonsense", "café".encode()),
        ("text/plain; charset=punycode", "café".encode()),
    ],
)
async def test_the_stated_character_set_is_used(web: Web, kind: str, body: bytes) -> None:
    web.page("example.org/", body, content_type=kind)
    assert (await web.fetch("https://example.org/", "example.org")).text == "café"


async def test_a_server_that_hangs_is_given_up() -> None:
    """Over a real connection: the address is passed off as public, and leads to a server that says nothing."""
    left = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    def client(seconds: float) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=_ToPort(port), timeout=seconds)

    async def resolve(host: str, at: int) -> list[str]:
        return [PUBLIC]

    async with server:
        with pytest.raises(ToolFailed, match=r"within 0\.2 seconds"):
            await fetch_page("http://example.org/", hosts=["*"], seconds=0.2, resolve=resolve, client=client)
        await asyncio.wait_for(left.wait(), 10)


async def test_the_certificate_has_to_be_the_hosts_and_not_the_addresss() -> None:
    """The name goes along in the handshake, though the connection is made by address."""
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _, name, __: asked.append(name)  # type: ignore[assignment]
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]

    async def resolve(host: str, at: int) -> list[str]:
        return [PUBLIC]

    async with server:
        with pytest.raises(ToolFailed, match="connection failed"):
            await fetch_page(
                "https://example.org/",
                hosts=["*"],
                resolve=resolve,
                client=lambda seconds: httpx.AsyncClient(transport=_ToPort(port), timeout=seconds),
            )
    assert asked == ["example.org"]


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    client = open_client(1)
    assert client._mounts == {}
    assert not client.trust_env


class _ToPort(httpx.AsyncHTTPTransport):
    """Whatever the address, the connection goes to this port of ours."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1", port=self.port)
        return await super().handle_async_request(request)
