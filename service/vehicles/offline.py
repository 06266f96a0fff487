"""Decoding without vPIC, by the copy of its database in `ultravin`.

The copy is some months old and lacks newer vehicles. So it is used only while vPIC is
unavailable or slow, and its results are not stored. Decoding takes about 30 µs.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
import structlog

from service.vehicles.model import Vehicle, Vin
from service.vehicles.vpic import VpicRow

FIELD_NAMES: Final = {
    "Make": "Make",
    "Model": "Model",
    "ModelYear": "Model Year",
    "BodyClass": "Body Class",
    "ErrorCode": "Error Code",
}
"""Names of the fields of vPIC in `ultravin`."""

log = structlog.get_logger()


class OfflineDecoder(Protocol):
    """Returns the vehicle of a VIN, or None if it is not decoded."""

    def __call__(self, vin: Vin) -> Vehicle | None: ...


def load_decoder() -> OfflineDecoder:
    """Load the decoder of `ultravin`, an optional extra of 90 MB."""
    import ultravin

    decode_with_copy: Callable[[str], dict[str, Any]] = ultravin.decode

    def decode(vin: Vin) -> Vehicle | None:
        try:
            return read_attributes(decode_with_copy(vin)["attributes"])
        except Exception as error:  # noqa: BLE001 - a fallback must not fail
            log.warning("vehicle.offline_failed", vin=vin, reason=repr(error))
            return None

    return decode


def read_attributes(attributes: Mapping[str, object]) -> Vehicle | None:
    """Return the vehicle by the same rules as for a row of vPIC, or None.

    Raises `msgspec.ValidationError` if a value is not a text.
    """
    row = {field: attributes.get(name) for field, name in FIELD_NAMES.items()}
    return msgspec.convert({"VIN": "", **row}, VpicRow).vehicle
