"""The vehicles that the sandbox knows: real makers, and a few models of each."""

from collections.abc import Mapping
from typing import Final, NamedTuple
from zlib import crc32

NOTHING: Final[Mapping[str, str]] = dict.fromkeys(
    """
    ABS AdditionalErrorText AirBagLocFront BodyClass BrakeSystemType DisplacementL
    Doors DriveType EngineCylinders ErrorCode ErrorText FuelTypePrimary GVWR Make
    MakeID Manufacturer ManufacturerId Model ModelID ModelYear Note PlantCity
    PlantCountry PossibleValues Series SuggestedVIN Trim VIN VehicleDescriptor
    VehicleType
    """.split(),
    "",
)
"""A row of which nothing is known: some of vPIC's 148 fields, in its order."""

NO_DETAIL: Final = 8
UNKNOWN_CHARACTERS: Final = 14

TRACTOR: Final = "Truck-Tractor"
SEDAN: Final = "Sedan/Saloon"
HATCHBACK: Final = "Hatchback/Liftback/Notchback"
SUV: Final = "Sport Utility Vehicle [SUV]/Multipurpose Vehicle [MPV]"
MPV: Final = "MULTIPURPOSE PASSENGER VEHICLE (MPV)"

HEAVY: Final = "Class 8: 33,001 lb and above (14,969 kg and above)"
MIDDLING: Final = "Class 2E: 6,001 - 7,000 lb (2,722 - 3,175 kg)"
LIGHT: Final = "Class 1D: 5,001 - 6,000 lb (2,268 - 2,722 kg)"


class Kind(NamedTuple):
    """What the vehicles of a maker have in common, as the fields tell it."""

    vehicle_type: str
    gvwr: str
    fuel: str
    cylinders: str
    displacement_l: str
    doors: str
    is_light: bool
    """Whether a letter at position 7 says that the model year is 2010 or later."""


class Model(NamedTuple):
    """A model; positions 4 to 8 tell it where those are given."""

    name: str
    body_class: str
    descriptor: str = ""


class Maker(NamedTuple):
    """Who makes the vehicles of one WMI, and the fields of each of its models."""

    is_light: bool
    models: tuple[Mapping[str, str], ...]
    by_descriptor: Mapping[str, Mapping[str, str]]
    error: int
    """What the `ErrorCode` of all its vehicles has; 0 is nothing."""

    def model_of(self, descriptor: str) -> Mapping[str, str]:
        """The fields of the model of positions 4 to 8: known, or always the same."""
        known = self.by_descriptor.get(descriptor)
        if known is not None:
            return known
        return self.models[crc32(descriptor.encode()) % len(self.models)]


TRUCKS: Final = Kind("TRUCK ", HEAVY, "Diesel", "6", "14.9", "2", is_light=False)
UNFINISHED: Final = TRUCKS._replace(vehicle_type="INCOMPLETE VEHICLE")
TRAILERS: Final = Kind("TRAILER", "", "", "", "", "", is_light=False)
PICKUPS: Final = Kind("TRUCK ", MIDDLING, "Gasoline", "6", "3.5", "4", is_light=True)
CARS: Final = Kind("PASSENGER CAR", "", "Gasoline", "4", "2.0", "4", is_light=True)
ELECTRIC: Final = CARS._replace(fuel="Electric", cylinders="", displacement_l="")
SUVS: Final = CARS._replace(vehicle_type=MPV, gvwr=LIGHT)


def _maker(who: str, plant: str, kind: Kind, *models: Model, error: int = 0) -> Maker:
    """Make a maker, told as "make / manufacturer" and "city / country"."""
    fields = [_fields(who, plant, kind, model) for model in models]
    by_descriptor = {
        model.descriptor: each
        for model, each in zip(models, fields, strict=True)
        if model.descriptor
    }
    return Maker(kind.is_light, tuple(fields), by_descriptor, error)


def _fields(who: str, plant: str, kind: Kind, model: Model) -> Mapping[str, str]:
    make, _, manufacturer = who.partition(" / ")
    city, _, country = plant.partition(" / ")
    told = {
        "BodyClass": model.body_class,
        "DisplacementL": kind.displacement_l,
        "Doors": kind.doors,
        "EngineCylinders": kind.cylinders,
        "FuelTypePrimary": kind.fuel,
        "GVWR": kind.gvwr,
        "Make": make,
        "MakeID": _number(make),
        "Manufacturer": manufacturer,
        "ManufacturerId": _number(manufacturer),
        "Model": model.name,
        "ModelID": _number(model.name),
        "PlantCity": city,
        "PlantCountry": country,
        "VehicleType": kind.vehicle_type,
    }
    return {**NOTHING, **told}


def _number(name: str) -> str:
    return str(1 + crc32(name.encode()) % 9999) if name else ""


USA: Final = "UNITED STATES (USA)"

MAKERS: Final[Mapping[str, Maker]] = {
    "1XP": _maker(
        "PETERBILT / PETERBILT MOTORS COMPANY",
        f"DENTON / {USA}",
        TRUCKS,
        Model("388", TRACTOR, "WD40X"),
        Model("379", TRACTOR, "5DB9X"),
        Model("579", TRACTOR),
    ),
    "1XK": _maker(
        "KENWORTH / KENWORTH TRUCK COMPANY",
        f"CHILLICOTHE / {USA}",
        TRUCKS,
        Model("W9 Series", TRACTOR, "WDB0X"),
        Model("T680", TRACTOR, "YDP9X"),
        Model("T800", TRACTOR),
    ),
    "4V4": _maker(
        "VOLVO TRUCK / VOLVO TRUCKS NORTH AMERICA, INC.",
        f"DUBLIN / {USA}",
        TRUCKS,
        Model("VNL", TRACTOR, "NC9EJ"),
        Model("VNR ", TRACTOR),
    ),
    "1FU": _maker(
        "FREIGHTLINER / DAIMLER TRUCKS NORTH AMERICA LLC",
        f"CLEVELAND / {USA}",
        TRUCKS,
        Model("Cascadia", TRACTOR, "JGLDR"),
        Model("M2", TRACTOR, "BCXBS"),
        Model("Columbia", "Truck-Tractor "),
    ),
    "3AK": _maker(
        "FREIGHTLINER / DAIMLER TRUCKS NORTH AMERICA LLC",
        "SALTILLO / MEXICO",
        TRUCKS,
        Model("Cascadia", TRACTOR, "JHHDR"),
    ),
    "1M2": _maker(
        "MACK  / MACK TRUCKS, INC.",
        f"MACUNGIE / {USA}",
        UNFINISHED,
        Model("GU (Granite)", "Truck", "AX09C"),
        Model("MRU (TerraPro)", "Truck"),
    ),
    "1JJ": _maker(
        "WABASH VANS / WABASH NATIONAL CORPORATION",
        f"LAFAYETTE / {USA}",
        TRAILERS,
        Model("Dry Van Duraplate", "Trailer", "V532D"),
    ),
    "1FT": _maker(
        "FORD / FORD MOTOR COMPANY, USA",
        f"DEARBORN / {USA}",
        PICKUPS,
        Model("F-150", "Pickup", "FW1ET"),
        Model("F-150 ", "Pickup", "MW1T8"),
        Model("F-250", "Pickup "),
    ),
    "1HG": _maker(
        "HONDA / HONDA OF AMERICA MFG., INC.",
        f"MARYSVILLE / {USA}",
        CARS,
        Model("Accord", "Coupe", "CM826"),
        Model("Civic", SEDAN),
    ),
    "4T1": _maker(
        "TOYOTA / TOYOTA MOTOR MANUFACTURING, KENTUCKY, INC.",
        f"GEORGETOWN / {USA}",
        CARS,
        Model("Camry", SEDAN, "SK12E"),
        Model("Avalon", SEDAN),
    ),
    "JTD": _maker(
        "TOYOTA / TOYOTA MOTOR CORPORATION",
        "TOYOTA CITY / JAPAN",
        CARS,
        Model("Prius", HATCHBACK),
        Model("Yaris", HATCHBACK),
    ),
    "5YJ": _maker(
        "TESLA / TESLA, INC.",
        f"FREMONT / {USA}",
        ELECTRIC,
        Model("Model S", HATCHBACK, "SA3DS"),
        Model("Model 3 ", SEDAN),
    ),
    "WBA": _maker(
        "BMW / BMW AG",
        "MUNICH / GERMANY",
        CARS,
        Model("328i", SEDAN, "3A5C5"),
        Model("530i", SEDAN),
    ),
    "5UX": _maker(
        "BMW / BMW MANUFACTURER CORPORATION / BMW NORTH AMERICA",
        f"SPARTANBURG / {USA}",
        SUVS,
        Model("X3", SUV, "WX7C5"),
        Model("X5", SUV),
    ),
    "3VV": _maker(
        "VOLKSWAGEN / VOLKSWAGEN DE MEXICO SA DE CV",
        "PUEBLA / MEXICO",
        SUVS,
        Model("Tiguan", SUV, "3B7AX"),
        Model("Taos", SUV),
    ),
    "WDC": _maker(
        "MERCEDES-BENZ / MERCEDES-BENZ AG",
        "BREMEN / GERMANY",
        SUVS,
        Model("GL-Class", SUV, "16687"),
        Model("GLK-Class", SUV),
        error=NO_DETAIL,
    ),
    "ZA9": _maker(
        "LAMBORGHINI / AUTOMOBILI LAMBORGHINI S.P.A.",
        "SANT'AGATA BOLOGNESE / ITALY",
        CARS,
        Model("", ""),
        error=NO_DETAIL,
    ),
    "123": _maker(
        "SHERMAN + REILLY / SHERMAN & REILLY, INC.",
        f"CHATTANOOGA / {USA}",
        TRAILERS,
        Model("", ""),
        error=UNKNOWN_CHARACTERS,
    ),
}
"""Every maker by its WMI; blanks at the end of some values are vPIC's own habit."""
