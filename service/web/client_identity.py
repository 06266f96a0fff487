"""Identification of clients, by API key or by address."""

import secrets
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from aiohttp import hdrs, web

from service.settings import LimitsSettings
from service.web.credentials import credential_of

FORWARDED_FOR: Final = "X-Forwarded-For"
FORWARDED_HOST: Final = "X-Forwarded-Host"
FORWARDED_PROTO: Final = "X-Forwarded-Proto"
UNKNOWN_ADDRESS: Final = "unknown"
"""For connections without an address, such as those of Unix sockets."""
IPV6_PREFIX_BITS: Final = 64
"""Providers assign a whole /64 network to one customer."""
CACHED_ADDRESSES: Final = 16_384

IPAddress = IPv4Address | IPv6Address


class ClientIdentifier:
    """Distinguishes clients by a hash of their API key, or by their address."""

    def __init__(self, limits: LimitsSettings, secret: bytes | None = None) -> None:
        self._by_credentials = limits.by_credentials
        self._trusted = [ip_network(each) for each in limits.trusted_proxies]
        self._secret = secret or secrets.token_bytes(16)

    def identify(self, request: web.BaseRequest) -> str | bytes:
        """Return an id that is equal for all requests of a client."""
        # Not by a public key, which all browsers share.
        key_id = self._key_id_of(credential_of(request))
        return key_id or self.group_of(request)

    def caller_of(self, request: web.BaseRequest) -> "Caller":
        """Return what identifies the client in equal requests of any connection."""
        credential = credential_of(request)
        forwarded = forwarded_for(request)
        return Caller(self, credential, self._key_id_of(credential), forwarded)

    def group_of(self, request: web.BaseRequest) -> str:
        """Return the address of a client, or the network of its IPv6 address."""
        return address_group(self.address_of(request))

    def address_of(self, request: web.BaseRequest) -> str:
        """Return the client's address: the last hop that is no trusted proxy.

        It is the connection's own address if that is not trusted, or if a hop on the
        way is not an address.
        """
        connected = request.remote or UNKNOWN_ADDRESS
        if not self.is_trusted(connected):
            return connected
        return self.address_behind(connected, forwarded_for(request))

    def address_behind(self, proxy: str, forwarded: str) -> str:
        """Return the client's address behind a trusted proxy, by `X-Forwarded-For`."""
        client = proxy
        # Read from the end: a client can write anything at the beginning.
        for hop in reversed(forwarded.split(",") if forwarded else ()):
            client = hop.strip()
            if parse_address(client) is None:
                return proxy
            if not self.is_trusted(client):
                break
        return client

    def is_https(self, request: web.BaseRequest) -> bool:
        """Return whether the client uses https, by the word of a trusted proxy."""
        if not self.is_trusted(request.remote or UNKNOWN_ADDRESS):
            return request.secure
        # The first value is that of the proxy next to the client.
        forwarded = request.headers.get(FORWARDED_PROTO, request.scheme)
        return forwarded.partition(",")[0].strip().lower() == "https"

    def own_hosts(self, request: web.BaseRequest) -> set[str]:
        """Return the names of this service that a client may have used."""
        hosts = {request.headers.get(hdrs.HOST, "")}
        if self.is_trusted(request.remote or UNKNOWN_ADDRESS):
            forwarded = ",".join(request.headers.getall(FORWARDED_HOST, ()))
            hosts.update(each.strip() for each in forwarded.split(","))
        return hosts - {""}

    def is_trusted(self, text: str) -> bool:
        """Return whether an address is that of a trusted proxy."""
        address = parse_address(text)
        return address is not None and any(address in each for each in self._trusted)

    def _key_id_of(self, credential: str | None) -> bytes | None:
        if not credential or not self._by_credentials:
            return None
        key = credential.encode("utf-8", "surrogateescape")
        # Keyed with a secret, so that stored ids reveal no keys.
        return blake2b(key, key=self._secret, digest_size=16).digest()


@dataclass(frozen=True)
class Caller:
    """The sender of equal requests: a credential, or an address on each connection."""

    clients: ClientIdentifier
    credential: str | None
    key_id: bytes | None
    forwarded: str
    """`X-Forwarded-For`, which counts on connections of trusted proxies only."""

    def identify(self, remote: str | None) -> str | bytes:
        """Return the client's id for a request on a connection from `remote`."""
        if self.key_id is not None:
            return self.key_id
        connected = remote or UNKNOWN_ADDRESS
        if self.clients.is_trusted(connected):
            connected = self.clients.address_behind(connected, self.forwarded)
        return address_group(connected)


@lru_cache(maxsize=CACHED_ADDRESSES)
def parse_address(text: str) -> IPAddress | None:
    """Return an address, written with or without a port; None if it is invalid."""
    host = text.strip()
    # Some proxies append the port: "192.0.2.1:80" or "[2001:db8::1]:80".
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return None
    # A dual-stack socket reports IPv4 clients as mapped IPv6 addresses.
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=CACHED_ADDRESSES)
def address_group(text: str) -> str:
    """Return an IPv4 address, or the network of an IPv6 address."""
    address = parse_address(text)
    if isinstance(address, IPv6Address):
        bits = int(address) >> (128 - IPV6_PREFIX_BITS)
        return str(ip_network((bits << (128 - IPV6_PREFIX_BITS), IPV6_PREFIX_BITS)))
    return str(address or text)


def forwarded_for(request: web.BaseRequest) -> str:
    """Return `X-Forwarded-For`: the hops before the proxy, the nearest one last."""
    return ",".join(request.headers.getall(FORWARDED_FOR, ()))
