"""Settings of the section `periods`."""

import re
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Meta, Struct

from service.settings.types import LongSeconds

MAX_DAY: Final = 31
MAX_KEPT: Final = 10_000

PERIOD_LENGTH: Final = re.compile(r"P(?P<count>[1-9][0-9]{0,2})(?P<unit>[MWD])")
"""An ISO 8601 duration of months, weeks or days."""


class PeriodsSettings(Struct, frozen=True, kw_only=True):
    """Keeping of billing periods in the database."""

    enabled: bool
    boundary: Literal["auto", "upstream", "calendar"]
    anchor_day: Annotated[int, Meta(ge=1, le=MAX_DAY)]
    zone: str
    grace_s: LongSeconds
    refresh_s: LongSeconds
    keep_texts: bool
    retention: Annotated[int, Meta(ge=0, le=MAX_KEPT)]
    length: str

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.zone)
        except (ValueError, OSError, ZoneInfoNotFoundError) as error:
            raise ValueError(f"there is no time zone {self.zone!r}") from error
        if self.length and not PERIOD_LENGTH.fullmatch(self.length):
            expected = "months, weeks or days of ISO 8601, such as P1M, P4W or P30D"
            raise ValueError(f"{self.length!r} is not a length: expected {expected}")
