"""Which network addresses a tool may talk to: public ones of hosts on its list, and never this machine's neighbours.

A name is resolved once, all of its addresses are checked, and the connection goes to a checked address. Had the name
been resolved again for the connection, its owner could have answered with another address the second time.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

from standby.addresses import is_public
from tasks.errors import ToolFailed, ToolRefused

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""From host and port to its addresses."""


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
        if not is_public(address, translated=False):
            raise ToolRefused(url, f"{host} is at {address}, which is no public address", "Take another source.")
    return addresses[0]


async def system_resolve(host: str, port: int) -> list[str]:
    """The addresses as this machine's resolver gives them, IPv4 first."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _plain(host: str) -> str:
    return host.strip().rstrip(".").lower()
