"""Keys and sessions, as requests and answers have them."""

from typing import Annotated

from msgspec import Meta, Struct

from service.settings import Scope

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        description="The application that uses the key, and whose events it sends.",
        examples=["shop"],
    ),
]
Rate = Annotated[
    float,
    Meta(
        gt=0,
        le=1_000_000,
        description="Maximum requests a second; of all workers together with Redis.",
    ),
]


class NewKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be created; without scopes, it has `events:write`."""

    name: Name
    scopes: Annotated[list[Scope], Meta(min_length=1)] | None = None
    rate_per_s: Rate | None = None


class KeyItem(Struct, frozen=True, kw_only=True):
    """A key, without its text."""

    id: str
    name: Name
    scopes: list[str]
    rate_per_s: float | None
    created_at: str
    revoked_at: str | None


class KeyList(Struct, frozen=True):
    """All keys, revoked ones too, in the order of their creation."""

    keys: list[KeyItem]


class CreatedKey(Struct, frozen=True, kw_only=True):
    """A new key with its text, which is shown only once."""

    id: str
    key: str
    name: Name
    scopes: list[str]
    rate_per_s: float | None
    created_at: str


class SignIn(Struct, frozen=True, forbid_unknown_fields=True):
    """The key to sign in with."""

    key: Annotated[str, Meta(max_length=200)]


class SessionFacts(Struct, frozen=True, kw_only=True):
    """The session of a browser."""

    name: Name
    scopes: list[str]
    expires_at: str
    csrf_token: Annotated[
        str,
        Meta(description="Send it as `X-CSRF-Token` with requests that change data."),
    ]
