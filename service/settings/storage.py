"""Settings of the section `storage`."""

from typing import Annotated, Final

from msgspec import Meta, Struct
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from service.settings.types import Seconds

STORAGE_SCHEMES: Final = ("sqlite+aiosqlite", "postgresql+asyncpg")


class StorageSettings(Struct, frozen=True, kw_only=True):
    """The database of events and vehicles."""

    url: str
    connections: Annotated[int, Meta(ge=1, le=1_000)]
    lock_timeout_s: Seconds
    timeout_s: Seconds

    def __post_init__(self) -> None:
        scheme = self.url.partition("://")[0]
        if scheme not in STORAGE_SCHEMES:
            allowed = " or ".join(f"{each}://" for each in STORAGE_SCHEMES)
            raise ValueError(f"expected a URL that begins with {allowed}")
        try:
            url = make_url(self.url)
        except (ArgumentError, ValueError) as error:  # such as an invalid port
            raise ValueError("expected a URL of SQLAlchemy") from error
        # In SQLite, each connection to `:memory:` has a database of its own.
        if url.database in {None, "", ":memory:"}:
            raise ValueError("expected a URL with a file or a database")
        # Secrets in URLs are masked only before the host (`loader.PASSWORD_IN_URL`).
        if "password" in url.query:
            raise ValueError("expected the password before the host")
