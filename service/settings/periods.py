"""Settings of the section `periods`."""

import re
from typing import Final

from msgspec import Struct

PERIOD_LENGTH: Final = re.compile(r"P(?P<count>[1-9][0-9]{0,2})(?P<unit>[MWD])")
"""An ISO 8601 duration of months, weeks or days."""


class PeriodsSettings(Struct, frozen=True, kw_only=True):
    """Keeping of billing periods in the database."""

    enabled: bool
    length: str

    def __post_init__(self) -> None:
        if self.length and not PERIOD_LENGTH.fullmatch(self.length):
            expected = "months, weeks or days of ISO 8601, such as P1M, P4W or P30D"
            raise ValueError(f"{self.length!r} is not a length: expected {expected}")
