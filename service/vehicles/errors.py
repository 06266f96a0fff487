"""Failures of vehicle look-ups and exports.

VehiclesError
├── InvalidVin            the text is not a VIN.
├── InvalidModelYear      the hint is not a model year.
├── InvalidWmi            the text is not the code of a manufacturer.
├── UnknownWmi            vPIC knows no manufacturer with the code.
├── TooManyVins           a request has more VINs than allowed.
├── VinNotDecoded         vPIC knows no vehicle for the VIN.
├── VehicleUnavailable    the VIN is not cached, and vPIC is unavailable.
│   └── LookupsFull       too many look-ups wait for vPIC.
│       └── LookupAbandoned   all its clients have left before vPIC was asked.
└── ExportFailed          the file could not be written.
"""

from collections.abc import Mapping
from typing import Any, Literal

Cause = Literal["vpic", "storage", "limit", "internal"]


class VehiclesError(Exception):
    """A look-up or an export failed."""

    code: str
    """Code of the problem, and of the error in a batch."""


class InvalidVin(VehiclesError):
    """The text is not a VIN; the message says why."""

    code = "invalid_vin"


class InvalidModelYear(VehiclesError):
    """The hint is not a model year that a VIN can have."""

    code = "invalid_model_year"


class InvalidWmi(VehiclesError):
    """The text is not the code of a manufacturer; the message says why."""

    code = "invalid_wmi"


class UnknownWmi(VehiclesError):
    """vPIC knows no manufacturer with the code."""

    code = "wmi_unknown"


class TooManyVins(VehiclesError):
    """A request has more VINs than allowed."""

    code = "too_many_vins"


class VinNotDecoded(VehiclesError):
    """vPIC knows no vehicle for this VIN."""

    code = "vin_not_decoded"

    def __init__(self, reason: str, members: Mapping[str, Any]) -> None:
        super().__init__(reason)
        self.members = members
        """The members of `Verdict`, which the problem document has too."""


class VehicleUnavailable(VehiclesError):
    """The vehicle is not cached, and vPIC is unavailable."""

    code = "vehicle_unavailable"
    cause: Cause = "vpic"
    """The part that failed, for the metrics."""

    def __init__(
        self,
        reason: str,
        retry_after_s: float | None = None,
        *,
        cause: Cause | None = None,
    ) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.cause = cause or self.cause


class LookupsFull(VehicleUnavailable):
    """The vehicle is not cached, and too many look-ups wait for vPIC."""

    code = "vehicle_lookups_full"
    cause = "limit"


class LookupAbandoned(LookupsFull):
    """All clients of the look-up have left before vPIC was asked."""


class ExportFailed(VehiclesError):
    """The export process failed; the log has its error."""

    code = "export_failed"
