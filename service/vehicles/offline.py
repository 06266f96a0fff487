"""Decoding without vPIC: by the copy of its database that comes with `ultravin`.

The copy is of some month in the past, so it knows nothing newer: it is asked only where
vPIC cannot be, and what it says is not kept. A decode takes some 30 microseconds.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
import structlog

from service.vehicles.model import Vehicle, Vin
from service.vehicles.vpic import Row

NAMES: Final = {
    "Make": "Make",
    "Model": "Model",
    "ModelYear": "Model Year",
    "BodyClass": "Body Class",
    "ErrorCode": "Error Code",
}
"""What it calls the fields of vPIC."""

log = structlog.get_logger()


class OfflineDecoder(Protocol):
    """Tells the vehicle of a VIN by what is on this machine; None if not decoded."""

    def __call__(self, vin: Vin) -> Vehicle | None: ...


def load_decoder() -> OfflineDecoder:
    """The decoder of `ultravin`, an extra of 90 MB that is loaded only here."""
    import ultravin  # noqa: PLC0415 - most do without

    tell: Callable[[str], dict[str, Any]] = ultravin.decode

    def decode(vin: Vin) -> Vehicle | None:
        try:
            return read_attributes(tell(vin)["attributes"])
        except Exception as error:  # noqa: BLE001 - it stands in, and may only help
            log.warning("vehicle.offline_failed", vin=vin, reason=repr(error))
            return None

    return decode


def read_attributes(told: Mapping[str, object]) -> Vehicle | None:
    """The vehicle by the same rules as of a row of vPIC.

    Raises `msgspec.ValidationError` where a value is no text.
    """
    row = {field: told.get(name) for field, name in NAMES.items()}
    return msgspec.convert({"VIN": "", **row}, Row).vehicle
