"""Problems of the vehicles endpoints, by the error that causes each."""

from http import HTTPStatus
from typing import Final

from service.vehicles import errors
from service.web.problems import Kinds, ProblemKind

INVALID_VIN: Final = ProblemKind(
    "invalid_vin", HTTPStatus.UNPROCESSABLE_ENTITY, "The text is not a VIN"
)
INVALID_MODEL_YEAR: Final = ProblemKind(
    "invalid_model_year",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "The hint is not a model year",
)
INVALID_WMI: Final = ProblemKind(
    "invalid_wmi",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "The text is not the code of a manufacturer",
)
WMI_UNKNOWN: Final = ProblemKind(
    "wmi_unknown", HTTPStatus.NOT_FOUND, "No manufacturer has this code"
)
TOO_MANY_VINS: Final = ProblemKind(
    "too_many_vins", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body has too many VINs"
)
VIN_NOT_DECODED: Final = ProblemKind(
    "vin_not_decoded", HTTPStatus.NOT_FOUND, "No vehicle is known for this VIN"
)
VEHICLE_UNAVAILABLE: Final = ProblemKind(
    "vehicle_unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The VIN cannot be decoded now",
    consequence="it is not cached, and vPIC is unavailable",
)
LOOKUPS_FULL: Final = ProblemKind(
    "vehicle_lookups_full",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many look-ups wait",
    consequence="it is not cached, and too many others wait for vPIC",
)
REMOVALS_FULL: Final = ProblemKind(
    "vehicle_removals_full",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many removals wait",
    consequence="nothing was removed",
)
REMOVAL_TIMEOUT: Final = ProblemKind(
    "vehicle_removal_timeout",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The removal was not finished in time",
    consequence="the VIN may have been removed",
)
TOO_MANY_EXPORTS: Final = ProblemKind(
    "too_many_exports",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many exports are in progress",
    consequence="each export takes a process",
)
EXPORT_FAILED: Final = ProblemKind(
    "export_failed",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The file cannot be created now",
    consequence="nothing was changed",
)

KINDS: Final[Kinds] = {
    errors.InvalidVin: INVALID_VIN,
    errors.InvalidModelYear: INVALID_MODEL_YEAR,
    errors.InvalidWmi: INVALID_WMI,
    errors.UnknownWmi: WMI_UNKNOWN,
    errors.TooManyVins: TOO_MANY_VINS,
    errors.VinNotDecoded: VIN_NOT_DECODED,
    errors.VehicleUnavailable: VEHICLE_UNAVAILABLE,
    errors.LookupsFull: LOOKUPS_FULL,
    errors.ExportFailed: EXPORT_FAILED,
}
