"""API keys in requests: where a client puts them, and their removal from texts.

A key in a header is secret. A key in the query or in Basic authentication is public:
pages contain it, and proxies log it. So such a key may send events, and nothing else.
"""

import binascii
import re
from typing import Final

from aiohttp import hdrs, web

from service.settings import Scope

API_KEY: Final = "X-API-Key"
KEY_PARAMETER: Final = "key"
KEY_PREFIX: Final = "cu_"
"""Scanners for leaked secrets recognise keys by it."""
PUBLIC_SCOPE: Final[Scope] = "events:write"
"""The only scope that a key in the query or in Basic authentication may have."""
REDACTED: Final = "REDACTED"

_KEY: Final = re.compile(rf"(?<![A-Za-z0-9_-]){KEY_PREFIX}[A-Za-z0-9_-]+")
_PARAMETER: Final = re.compile(rf"(^|&){KEY_PARAMETER}=[^&]*", re.IGNORECASE)


def credential_of(request: web.BaseRequest) -> str | None:
    """Return the API key of a request: its bearer token, or its `X-API-Key`."""
    # Each request pays for this, and most have neither.
    authorization = request.headers.get(hdrs.AUTHORIZATION)
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    return request.headers.get(API_KEY)


def public_key_of(request: web.BaseRequest) -> str | None:
    """Return the key in Basic authentication, or else in the query's `key`."""
    authorization = request.headers.get(hdrs.AUTHORIZATION)
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "basic" and (user := _user_of(token)):
            return user
    return request.query.get(KEY_PARAMETER)


def redacted(text: str) -> str:
    """Return a text of a client without the keys in it, for logs and answers."""
    return _KEY.sub(REDACTED, text) if KEY_PREFIX in text else text


def redacted_query(query: str) -> str:
    """Return a decoded query without the keys in it, for traces."""
    return redacted(_PARAMETER.sub(rf"\1{KEY_PARAMETER}={REDACTED}", query))


def _user_of(token: str) -> str:
    """Return the user of Basic authentication; its password is ignored."""
    try:
        decoded = binascii.a2b_base64(token.strip().encode(), strict_mode=True)
    except (binascii.Error, UnicodeError):
        return ""
    return decoded.partition(b":")[0].decode("utf-8", "surrogateescape")
