"""Resolution of names to public addresses only, for URLs that users choose.

A connector connects to the addresses that its resolver returns. So an address is
checked and used as one, and a name that changes in between (DNS rebinding) gains
nothing. A URL with an address needs no resolver, also if its digits are other ones of
Unicode. So the address of each socket is checked, too.
"""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

from aiohttp import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult

from service.upstream.errors import AddressRefused

DNS_THREADS: Final = 32
"""Look-ups that hang occupy these threads, and no others of the process.

As many as attempts at once, so names whose servers hang delay no other names.
"""
EMBEDDING: Final = (IPv6Network("::/96"), IPv6Network("64:ff9b::/96"))
"""IPv6 addresses that end with the IPv4 address that is meant."""
LOCAL: Final = IPv6Network("64:ff9b:1::/48")
"""Addresses of a gateway of the local network, which Python takes for public ones."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is on the public Internet, and no multicast address.

    An IPv6 address that contains an IPv4 address is public only if that one is, too.
    """
    if isinstance(address, IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local or address in LOCAL:
            return False
    return address.is_global and not address.is_multicast


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if any(address in each for each in EMBEDDING):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour


def check_literal(host: str) -> None:
    """Raise `AddressRefused` if a host is an address that is not public.

    Also if it is a number in another form, such as `0177.0.0.1`: names end otherwise.
    """
    if host.rstrip(".").rpartition(".")[2].isdigit() or ":" in host:
        _check_address(host)


def _check_address(text: str) -> None:
    try:
        is_accepted = is_public(ip_address(text.partition("%")[0]))
    except ValueError:  # a form that only the operating system may know
        is_accepted = False
    if not is_accepted:
        raise AddressRefused("the address is not public")


def open_public(address: AddrInfoType) -> socket.socket:
    """Open the socket of a connection; raises `AddressRefused` and `OSError`."""
    family, kind, protocol, _, where = address
    _check_address(str(where[0]))
    return socket.socket(family, kind, protocol)


class PublicResolver(AbstractResolver):
    """Resolves names; refuses one if any of its addresses is not public."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._threads = ThreadPoolExecutor(DNS_THREADS, "dns")

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,
    ) -> list[ResolveResult]:
        """Return the addresses of a name; raises `AddressRefused` and `OSError`."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, _look_up, host, port, family
        )
        if not self._allow_private:
            for each in found:
                _check_address(each["host"])
        return found

    async def close(self) -> None:
        """End the threads; one that waits for an answer is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: int) -> list[ResolveResult]:
    found: list[Any] = socket.getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return [
        ResolveResult(
            hostname=host,
            host=address[0],
            port=address[1],
            family=kind,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, protocol, _, address in found
        if kind in {socket.AF_INET, socket.AF_INET6}
    ]
