"""Decoding without vPIC: by the copy of its database that comes with `ultravin`.

The copy is of some month in the past, so it knows nothing newer: it is asked only where
vPIC cannot be, and what it says is not kept. A decode takes some 30 microseconds.
"""

from collections.abc import Callable
from typing import Any, Protocol

from service.vehicles.model import Vehicle, Vin
from service.vehicles.vpic import Row


class OfflineDecoder(Protocol):
    """Tells the vehicle of a VIN by what is on this machine; None if not decoded."""

    def __call__(self, vin: Vin) -> Vehicle | None: ...


def load_decoder() -> OfflineDecoder:
    """The decoder of `ultravin`, an extra of 90 MB that is loaded only here."""
    import ultravin  # noqa: PLC0415 - most do without

    tell: Callable[[str], dict[str, Any]] = ultravin.decode

    def decode(vin: Vin) -> Vehicle | None:
        return read_attributes(tell(vin)["attributes"])

    return decode


def read_attributes(told: dict[str, Any]) -> Vehicle | None:
    """The vehicle by the same rules as of a row of vPIC, which names them otherwise."""
    row = Row(
        vin="",
        make=told.get("Make"),
        model=told.get("Model"),
        model_year=told.get("Model Year"),
        body_class=told.get("Body Class"),
        error_code=told.get("Error Code"),
    )
    return row.vehicle
