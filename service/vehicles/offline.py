"""Decoding without vPIC, by the copy of its database in `ultravin`.

The copy is some months old and lacks newer vehicles. So it is used only while vPIC is
unavailable or slow, and its results are not stored. Decoding takes about 30 µs.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import structlog

from service.vehicles.model import Entry, Vin
from service.vehicles.vin import hint_of, number_of
from service.vehicles.vpic import read_row

NEEDED: Final = ("VIN", "Make", "Model", "ModelYear", "BodyClass", "ErrorCode")
"""Fields that each row of vPIC has."""

log = structlog.get_logger()


class OfflineDecoder(Protocol):
    """Returns the result for a VIN, or None if it is not decoded."""

    def __call__(self, vin: Vin) -> Entry | None: ...


def load_decoder() -> OfflineDecoder:
    """Load the decoder of `ultravin`, an optional extra of 90 MB."""
    import ultravin

    names = {name: each["code"] for name, each in ultravin.ELEMENTS.items()}

    def decode(vin: Vin) -> Entry | None:
        hint: dict[str, Any] = {"year": int(hint_of(vin))} if hint_of(vin) else {}
        try:
            attributes = ultravin.decode(number_of(vin), **hint)["attributes"]
            return read_attributes(attributes, names)
        except Exception as error:  # noqa: BLE001 - a fallback must not fail
            log.warning("vehicle.offline_failed", vin=vin, reason=repr(error))
            return None

    return decode


def read_attributes(
    attributes: Mapping[str, Any], names: Mapping[str, str]
) -> Entry | None:
    """Return the result by the same rules as for a row of vPIC; None without one.

    Raises `msgspec.ValidationError` if a value that is needed is not a text.
    """
    row = {names.get(name, name): value for name, value in attributes.items()}
    _, entry = read_row(dict.fromkeys(NEEDED, "") | row)
    return entry if entry and entry.vehicle else None
