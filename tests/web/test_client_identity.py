"""Identification of clients by API key or address."""

from typing import Any, Final

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from service.web.client_identity import ClientIdentifier
from tests.web.limits_settings import limits


def identify(address: str, *headers: tuple[str, str], **keys: Any) -> str | bytes:
    """Identify a request from an address with headers."""
    request = make_mocked_request("GET", "/", CIMultiDict(headers))
    return ClientIdentifier(limits(**keys)).identify(request.clone(remote=address))


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([("Authorization", "Bearer k1")], id="bearer"),
        pytest.param([("authorization", "bearer  k1 ")], id="any case"),
        pytest.param([("X-API-Key", "k1")], id="api key"),
        pytest.param([("Authorization", "Basic eA=="), ("X-API-Key", "k1")], id="both"),
    ],
)
def test_a_key_is_the_same_client_at_every_address(
    headers: list[tuple[str, str]],
) -> None:
    """A key identifies a client by a hash."""
    identifier = ClientIdentifier(limits())

    def identify_key(peer: str, headers: list[tuple[str, str]]) -> str | bytes:
        request = make_mocked_request("GET", "/", CIMultiDict(headers))
        return identifier.identify(request.clone(remote=peer))

    client = identify_key("192.0.2.1", headers)
    assert client == identify_key("192.0.2.2", headers)
    assert client != identify_key("192.0.2.1", [("X-API-Key", "k2")])
    assert isinstance(client, bytes)
    assert b"k1" not in client


def test_keys_can_be_ignored() -> None:
    """With `by_credentials` off, and without a key, the address counts."""
    assert (
        identify("192.0.2.1", ("X-API-Key", "k1"), by_credentials=False) == "192.0.2.1"
    )
    assert identify("192.0.2.1", ("X-API-Key", "")) == "192.0.2.1"


TRUSTED: Final = ("10.0.0.0/8", "::1", "2001:db8:aa::/48")


@pytest.mark.parametrize(
    "peer, forwarded, caller",
    [
        pytest.param("192.0.2.1", ["198.51.100.7"], "192.0.2.1", id="untrusted peer"),
        pytest.param("10.0.0.1", ["198.51.100.7"], "198.51.100.7", id="one hop"),
        pytest.param(
            "10.0.0.1",
            ["1.1.1.1, 198.51.100.7, 10.9.9.9 , 10.8.8.8"],
            "198.51.100.7",
            id="several of ours",
        ),
        pytest.param(
            "10.0.0.1", ["1.1.1.1", "198.51.100.7"], "198.51.100.7", id="two headers"
        ),
        pytest.param("10.0.0.1", ["10.0.0.2, 10.0.0.3"], "10.0.0.2", id="all ours"),
        pytest.param("10.0.0.1", ["198.51.100.7, ?"], "10.0.0.1", id="malformed"),
        pytest.param("10.0.0.1", ["?, 198.51.100.7"], "198.51.100.7", id="forged only"),
        pytest.param("10.0.0.1", ["198.51.100.7,"], "10.0.0.1", id="trailing comma"),
        pytest.param("10.0.0.1", ["198.51.100.7:81"], "198.51.100.7", id="port"),
        pytest.param("::1", ["2001:db8:1:2:3::4"], "2001:db8:1:2::/64", id="IPv6"),
        pytest.param("::1", ["[2001:db8:1:2::9]:8"], "2001:db8:1:2::/64", id="v6 port"),
        pytest.param(
            "2001:db8:aa::1", ["198.51.100.7"], "198.51.100.7", id="IPv6 network"
        ),
        pytest.param("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7", id="mapped"),
        pytest.param("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64", id="IPv6 peer"),
        pytest.param("", ["198.51.100.7"], "unknown", id="no address"),
    ],
)
def test_only_trusted_proxies_forward_addresses(
    peer: str, forwarded: list[str], caller: str
) -> None:
    """The last hop that is no trusted proxy is the client."""
    headers = [("X-Forwarded-For", each) for each in forwarded]
    assert identify(peer, *headers, trusted_proxies=TRUSTED) == caller
