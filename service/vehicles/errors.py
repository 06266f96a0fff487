"""How looking a vehicle up fails.

VehiclesError
├── InvalidVin            it is no VIN, so nobody was asked
├── TooManyVins           more than one request may have
├── VinNotDecoded         vPIC knows no vehicle of it
├── VehicleUnavailable    it is not kept here, and vPIC does not tell
├── TooManyExports        as many as may run are under way
└── ExportFailed          the file could not be made
"""


class VehiclesError(Exception):
    """A vehicle cannot be told."""

    code: str
    """What a batch calls it, and a problem too."""


class InvalidVin(VehiclesError):
    """It is no VIN; the text says what is wrong with it."""

    code = "invalid_vin"


class TooManyVins(VehiclesError):
    """A request holds more VINs than it may."""

    code = "too_many_vins"


class VinNotDecoded(VehiclesError):
    """vPIC knows no vehicle of this VIN."""

    code = "vin_not_decoded"


class VehicleUnavailable(VehiclesError):
    """The vehicle is not kept here, and vPIC cannot be asked now."""

    code = "vehicle_unavailable"

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class TooManyExports(VehiclesError):
    """As many exports as may run at once are under way."""

    code = "too_many_exports"
    retry_after_s = 5.0


class ExportFailed(VehiclesError):
    """The process that makes the file has failed; its words are in the log."""

    code = "export_failed"
