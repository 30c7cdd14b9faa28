"""HTTP to addresses that somebody else has named: public ones only, so that nobody reaches through us what is inside.

The address is looked at when the connection is made, and the connection goes to that very address: a name that means
something else a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Collection
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx

_TRANSLATED = ip_network("64:ff9b::/96")
"""IPv6 addresses that a translator turns into the IPv4 address at their end."""

_NOT_PUBLIC = [
    ip_network(each)
    for each in (
        "168.63.129.16/32",  # a cloud's own services, though the address is public
        "192.0.0.0/24",
        "192.88.99.0/24",  # relays from IPv4 to IPv6
        "2001::/23",  # tunnels, which carry an IPv4 address; benchmarks
        "2001:db8::/32",
        "2002::/16",  # 6to4, which carries an IPv4 address
        "3fff::/20",
    )
]
_UNICAST = ip_network("2000::/3")
"""All that is handed out to hosts in IPv6. What maps, embeds or translates IPv4 lies outside of it, or is above."""
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
"""Bytes 9 to 12 of an IPv6 address that carries an IPv4 address in its last four."""


class NotPublic(Exception):
    """A host that is not on the public network, or not to be found. The text says which."""


def is_public(address: str, *, translated: bool = True) -> bool:
    """Whether this is the IP address of a host on the public network; False for what is no address at all.

    ``translated``: so is one that a translator turns into a public IPv4 address, as networks without IPv4 have them.
    """
    try:
        found: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    if found in _TRANSLATED and translated:
        found = IPv4Address(int(found) & 0xFFFFFFFF)
    if isinstance(found, IPv6Address) and (
        found.scope_id is not None or found not in _UNICAST or found.packed[8:12] in _ISATAP
    ):
        return False
    return found.is_global and not found.is_multicast and not any(found in network for network in _NOT_PUBLIC)


async def looked_up(host: str, port: int, trusted: Collection[str] = ()) -> str:
    """An IP address of the host, all of which are public; of a ``trusted`` host any. Raises ``NotPublic``."""
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotPublic(f"the host {host} is not to be found") from None
    addresses = [str(info[4][0]) for info in infos]
    if host not in trusted and not all(map(is_public, addresses)):
        raise NotPublic(f"the host {host} is not on the public network")
    return addresses[0]


@cache
def _tls() -> ssl.SSLContext:
    """Made once: to load the certificates takes tens of milliseconds."""
    return httpx.create_ssl_context()


class PublicOnly(httpx.AsyncBaseTransport):
    """Sends requests to public addresses and to ``trusted`` hosts. Raises ``NotPublic`` for others."""

    def __init__(self, trusted: Collection[str] = ()) -> None:
        self._trusted = trusted
        self._inner = httpx.AsyncHTTPTransport(verify=_tls())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        address = await looked_up(url.host, url.port or (443 if url.scheme == "https" else 80), self._trusted)
        # The header Host has the name already; the certificate has to be the name's, too.
        request.extensions = {**request.extensions, "sni_hostname": url.host}
        request.url = url.copy_with(host=address)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()
