"""Vehicles, and the answers about them."""

from typing import Final, Literal, NamedTuple, NewType, TypeAlias

from msgspec import UNSET, Struct, UnsetType

Vin = NewType("Vin", str)
"""A VIN to look up, in vPIC's notation; `service.vehicles.vin` parses it.

It has 17 upper-case letters and digits (ISO 3779), or fewer with `*` for unknown ones.
A model year may follow as a hint: `VIN,YEAR`. Each hint has an entry of its own.
"""

Query: TypeAlias = Vin
"""The key of a look-up: equal queries share one call, one entry and one lock."""

VehicleSource = NewType("VehicleSource", str)
"""The address of vPIC, or the sandbox, whose invented vehicles are never real ones."""

NO_CODES: Final = ""
"""Codes of an entry that an older version has stored, without the whole row."""


class Vehicle(Struct, frozen=True):
    """Values of vPIC for a vehicle; empty texts are unknown."""

    make: str
    model: str
    model_year: str
    body_class: str


class Entry(NamedTuple):
    """Result of vPIC for one VIN: a vehicle, or None if it was not decoded."""

    vehicle: Vehicle | None
    fetched_at: int
    """In microseconds since 1970 (`service.instants`)."""
    codes: str = NO_CODES
    """Error codes of vPIC (see `doubts`)."""
    packed: bytes = b""
    """All values of the row (see `details`)."""


class Verdict(Struct, frozen=True):
    """The reasons of vPIC for not decoding a VIN; empty texts are unknown."""

    codes: list[int]
    """Its error codes; none if an older version has stored the result."""
    error_text: str
    additional_error_text: str
    suggested_vin: str
    """The VIN, with `!` at the positions in error."""
    possible_values: str
    """Such as `(8:12)`: 1 or 2 at position 8."""


class Found(NamedTuple):
    """Vehicle of a look-up, and its origin."""

    vehicle: Vehicle
    result: Literal["hit", "stale", "miss", "offline"]
    age_s: float
    """Time since vPIC decoded it."""
    is_stored: bool
    """False if the database did not store it, as far as is known."""
    is_refreshed: bool = False
    """True if it replaces an expired entry."""
    codes: str = NO_CODES
    packed: bytes = b""
    """As in `Entry`."""


class LookedUp(Struct, frozen=True, kw_only=True):
    """A vehicle; empty texts are unknown."""

    vin: str
    make: str
    model: str
    model_year: str
    body_class: str
    cached_result: bool
    """True if the vehicle was cached, so that nothing was requested from vPIC."""
    warnings: list[str] | UnsetType = UNSET
    """Doubts about the result, if there are any."""
    model_year_candidates: list[str] | UnsetType = UNSET
    """Possible model years, if the VIN leaves the year open."""
    source: Literal["offline"] | UnsetType = UNSET
    """Present if the VIN was decoded by a local copy of vPIC's database."""
    fields: dict[str, str] | UnsetType = UNSET
    """With `fields`: the values that are not empty, under vPIC's names."""


class BatchItem(Struct, frozen=True, kw_only=True):
    """A vehicle as for a single VIN, or the `error` and `detail` in its place."""

    vin: str
    make: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    model_year: str | UnsetType = UNSET
    body_class: str | UnsetType = UNSET
    cached_result: bool | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET
    model_year_candidates: list[str] | UnsetType = UNSET
    source: Literal["offline"] | UnsetType = UNSET
    fields: dict[str, str] | UnsetType = UNSET
    error: str | UnsetType = UNSET
    """The problem code that a request for this VIN alone would get."""
    detail: str | UnsetType = UNSET
    codes: list[int] | UnsetType = UNSET
    """With `fields`, for `vin_not_decoded`: why, as in the problem document."""
    error_text: str | UnsetType = UNSET
    additional_error_text: str | UnsetType = UNSET
    suggested_vin: str | UnsetType = UNSET
    possible_values: str | UnsetType = UNSET


class LookupAnswer(Struct, frozen=True):
    """Results of a batch, in the order of its VINs."""

    results: list[BatchItem]


class HintedVin(Struct, frozen=True, forbid_unknown_fields=True):
    """A VIN with its model year, if that is known."""

    vin: str
    model_year: int | str | None = None


class LookupBody(Struct, frozen=True, forbid_unknown_fields=True):
    """VINs to look up together, and the `fields` of the answers."""

    vins: list[str | HintedVin]
    fields: str | list[str] = "basic"


class Removed(Struct, frozen=True):
    """Result of a removal; `cache_delete_success` is false if nothing was cached."""

    vin: str
    cache_delete_success: bool
