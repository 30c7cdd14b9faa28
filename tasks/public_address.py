"""Which network addresses a tool may talk to: public ones of hosts on its list, and never this machine's neighbours.

A name is resolved once, all of its addresses are checked, and the connection goes to a checked address. Had the name
been resolved again for the connection, its owner could have answered with another address the second time.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

from tasks.errors import ToolFailed, ToolRefused

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""From host and port to its addresses."""

_NOT_PUBLIC = [
    ipaddress.ip_network(each)
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
_UNICAST = ipaddress.ip_network("2000::/3")
"""All that is handed out to hosts in IPv6. What maps, embeds or translates IPv4 lies outside of it, or is above."""
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
"""Bytes 9 to 12 of an IPv6 address that carries an IPv4 address in its last four."""


def is_public(address: str) -> bool:
    """Whether this is the address of a host on the public internet; False for what is no address at all."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and (
        found.scope_id is not None or found not in _UNICAST or found.packed[8:12] in _ISATAP
    ):
        return False
    return found.is_global and not found.is_multicast and not any(found in network for network in _NOT_PUBLIC)


def is_listed(host: str, hosts: Sequence[str]) -> bool:
    """Whether the list allows the host: by its name, by ``*.example.org`` (below it, not itself), or by ``*``."""
    name = _plain(host)
    for each in hosts:
        entry = _plain(each)
        if entry == "*" or entry == name or (entry.startswith("*.") and name.endswith(entry[1:]) and name != entry[2:]):
            return True
    return False


async def checked_address(host: str, port: int, url: str, resolve: Resolve) -> str:
    """An address of the host that may be connected to. Raises ToolRefused unless all of its addresses are public.

    ToolFailed if the name has no address. ``url`` is for the message.
    """
    try:
        addresses = await resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise ToolFailed(url, f"the name {host} has no address ({error})", "Check the spelling.") from None
    if not addresses:
        raise ToolFailed(url, f"the name {host} has no address", "Check the spelling.")
    for address in addresses:
        if not is_public(address):
            raise ToolRefused(url, f"{host} is at {address}, which is no public address", "Take another source.")
    return addresses[0]


async def system_resolve(host: str, port: int) -> list[str]:
    """The addresses as this machine's resolver gives them, IPv4 first."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _plain(host: str) -> str:
    return host.strip().rstrip(".").lower()
