"""What is known of vehicles, and how look-ups are answered."""

from typing import Literal, NamedTuple, NewType

from msgspec import UNSET, Struct, UnsetType

Vin = NewType("Vin", str)
"""A VIN that keeps the rules: 17 upper-case letters and digits (ISO 3779)."""

Source = NewType("Source", str)
"""Who told it: an address, or the sandbox, whose inventions are no truth elsewhere."""


Warnings = list[Literal["check_digit"]]


class Vehicle(Struct, frozen=True):
    """What vPIC tells of a vehicle; empty texts are unknown."""

    make: str
    model: str
    model_year: str
    body_class: str


class Entry(NamedTuple):
    """What was learnt of one VIN: a vehicle, or None for none; and when."""

    vehicle: Vehicle | None
    fetched_at: int
    """In microseconds since 1970 (`service.instants`)."""


class Found(NamedTuple):
    """A vehicle that was looked up, and how."""

    vehicle: Vehicle
    result: Literal["hit", "stale", "miss", "offline"]
    age_s: float
    """How long ago it was told; 0 where it was just now."""
    is_kept: bool
    """Whether it is kept here, as far as is known."""
    is_renewed: bool = False
    """Whether it was kept before, but for too long."""


class LookedUp(Struct, frozen=True, kw_only=True):
    """A vehicle; empty texts are unknown."""

    vin: str
    make: str
    model: str
    model_year: str
    body_class: str
    cached_result: bool
    """Whether it was kept here, and nobody had to be asked."""
    warnings: Warnings | UnsetType = UNSET
    """What is odd about the VIN, if anything is."""
    source: Literal["offline"] | UnsetType = UNSET
    """Where it was decoded, if not by vPIC: here, from a copy of its database."""


class BatchItem(Struct, frozen=True, kw_only=True):
    """A vehicle as it is alone, or the `error` and `detail` in its place."""

    vin: str
    make: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    model_year: str | UnsetType = UNSET
    body_class: str | UnsetType = UNSET
    cached_result: bool | UnsetType = UNSET
    warnings: Warnings | UnsetType = UNSET
    source: Literal["offline"] | UnsetType = UNSET
    error: str | UnsetType = UNSET
    """The code that the same VIN alone would be answered with."""
    detail: str | UnsetType = UNSET


class LookupAnswer(Struct, frozen=True):
    """What came of each VIN of a batch, in the order asked."""

    results: list[BatchItem]


class LookupBody(Struct, frozen=True, forbid_unknown_fields=True):
    """VINs to look up together."""

    vins: list[str]


class Removed(Struct, frozen=True):
    """Whether a VIN was kept here until now."""

    vin: str
    cache_delete_success: bool
