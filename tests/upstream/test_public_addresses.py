"""Addresses that are public, and names that have others."""

import socket
from ipaddress import ip_address
from typing import Any, Final

import aiohttp
import pytest

from service.upstream.errors import AddressRefused
from service.upstream.public_addresses import (
    PublicResolver,
    check_literal,
    is_public,
    open_public,
)

PRIVATE: Final = (
    *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1"),
    *("2002:7f00:1::", "2001:0:808:808:0:0:f5ff:fffe"),
)
PUBLIC: Final = (
    *("8.8.8.8", "1.1.1.1", "2606:4700::1111"),
    *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8"),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    """Also one that is inside of an address of IPv6."""
    assert not is_public(ip_address(address))
    with pytest.raises(AddressRefused):
        check_literal(address)


@pytest.mark.parametrize("host", ["0", "127.0.0.1.", "0177.0.0.1", "2130706433"])
def test_a_number_is_refused_in_any_form(host: str) -> None:
    """Only the operating system knows which address it is."""
    with pytest.raises(AddressRefused):
        check_literal(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "１２７.0.0.1", "[::1]"])  # noqa: RUF001
async def test_no_socket_is_opened_for_a_private_address(host: str) -> None:
    """A connector does not resolve an address, also if it has wide digits."""
    connector = aiohttp.TCPConnector(socket_factory=open_public)
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(AddressRefused):
            await session.get(f"http://{host}:1/")


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_accepted(address: str) -> None:
    """Names are no literals, and are accepted until they are resolved."""
    assert is_public(ip_address(address))
    check_literal(address)
    check_literal("hooks.example.com")


def answer(*addresses: str) -> Any:
    """Return a `getaddrinfo` that returns these addresses."""
    return lambda *_, **__: [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in addresses
    ]


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("8.8.8.8", "127.0.0.1")])
async def test_one_private_address_refuses_the_name(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...]
) -> None:
    """The next connection could go to any of them."""
    monkeypatch.setattr(socket, "getaddrinfo", answer(*addresses))
    resolver = PublicResolver(allow_private=False)
    with pytest.raises(AddressRefused):
        await resolver.resolve("hooks.example.com", 443)
    await resolver.close()
    permitting = PublicResolver(allow_private=True)
    found = await permitting.resolve("hooks.example.com", 443)
    assert [each["host"] for each in found] == list(addresses)
    await permitting.close()


async def test_a_name_that_changes_gains_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection goes to the addresses of the one look-up that was checked."""
    looked_up = []

    def rebind(*_: object, **__: object) -> Any:
        looked_up.append(1)
        return answer("127.0.0.1" if len(looked_up) > 1 else "192.0.0.9")()

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    connected: list[Any] = []

    def note(address: Any) -> socket.socket:
        connected.append(address[4][0])
        raise OSError("no connection in a test")

    connector = aiohttp.TCPConnector(
        resolver=PublicResolver(allow_private=False),
        use_dns_cache=False,
        socket_factory=note,
    )
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get("http://hooks.example.com/")
    assert (len(looked_up), set(connected)) == (1, {"192.0.0.9"})
