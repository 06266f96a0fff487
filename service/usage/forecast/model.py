"""Answers of `GET /usage/forecast`."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Reason = Literal["too_early", "no_end_known"]


class Forecast(Struct, frozen=True, kw_only=True):
    """The credits of a period at its end: expected, and the ends of a band."""

    period: str
    as_of: Annotated[str, Meta(description="The time until which usage is known.")]
    credits_used: float
    expected: float
    low: float
    high: float
    confidence: Annotated[
        float, Meta(description="The probability of a total from `low` to `high`.")
    ]
    ends: Annotated[
        str, Meta(description="The end of the period, which is no part of it.")
    ]


class NoForecast(Struct, frozen=True):
    """The reason why there is no forecast yet, or never."""

    reason: Annotated[
        Reason,
        Meta(
            description="`too_early`: fewer than seven days are known, or none has "
            "usage. `no_end_known`: periods are no calendar months, and "
            "`periods.length` is not set, or is too short."
        ),
    ]
