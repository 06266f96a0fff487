"""Settings of the section `auth`, and the scopes of API keys."""

from typing import Annotated, Final, Literal, get_args

from msgspec import Meta, Struct

from service.settings.types import Seconds

Scope = Literal[
    "events:write",
    "events:read",
    "events:read-all",
    "events:manage",
    "usage:read",
    "usage:manage",
    "vehicles:read",
    "vehicles:manage",
    "metrics:read",
    "admin",
]
"""What a key permits; each endpoint needs one scope or none."""
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
EVERY_SCOPE: Final = "*"
ALWAYS_REQUIRED: Final = frozenset(
    each for each in SCOPES if each.startswith("events:") or each == "admin"
)
"""Scopes that need a key whatever the settings say."""


class AuthSettings(Struct, frozen=True, kw_only=True):
    """Scopes that need a key, and sessions of browsers."""

    require: tuple[str, ...]
    session_s: Seconds
    # Empty, or too long to be guessed.
    session_secret: Annotated[str, Meta(pattern=r"^(.{32,})?$")]

    def __post_init__(self) -> None:
        known = (EVERY_SCOPE, *SCOPES)
        for each in self.require:
            if each not in known:
                raise ValueError(f"unknown scope {each!r}; known: {', '.join(known)}")

    @property
    def required(self) -> frozenset[str]:
        """The scopes that need a key."""
        if EVERY_SCOPE in self.require:
            return frozenset(SCOPES)
        return ALWAYS_REQUIRED.union(self.require)
