"""Settings of the section `periods`."""

from msgspec import Struct


class PeriodsSettings(Struct, frozen=True, kw_only=True):
    """Keeping of billing periods in the database."""

    enabled: bool
