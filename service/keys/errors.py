"""Errors of changes of API keys.

KeysError
├── BadKey
└── KeyNotFound
"""


class KeysError(Exception):
    """A change of the keys is refused."""


class BadKey(KeysError):
    """The name, the scopes or the rate of a new key are invalid; the text says why."""


class KeyNotFound(KeysError):
    """No valid key has this id or belongs to this application."""
