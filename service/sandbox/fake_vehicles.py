"""The vehicles of the sandbox: real makers, and a few models of each."""

from collections.abc import Mapping
from typing import Final, NamedTuple
from zlib import crc32

EMPTY_ROW: Final[Mapping[str, str]] = dict.fromkeys(
    """
    ABS ActiveSafetySysNote AdditionalErrorText AirBagLocFront AirBagLocSide Axles
    BasePrice BatteryType BedType BodyCabType BodyClass BrakeSystemDesc
    BrakeSystemType BusFloorConfigType BusType CurbWeightLB CustomMotorcycleType
    DisplacementCC DisplacementL Doors DriveType ESC ElectrificationLevel
    EngineConfiguration EngineCylinders EngineHP EngineManufacturer EngineModel
    ErrorCode ErrorText FuelInjectionType FuelTypePrimary FuelTypeSecondary GCWR GVWR
    Make MakeID Manufacturer ManufacturerId Model ModelID ModelYear
    MotorcycleChassisType MotorcycleSuspensionType Note PlantCity PlantCompanyName
    PlantCountry PlantState PossibleValues SeatBeltsAll SeatRows Seats Series Series2
    SteeringLocation SuggestedVIN TPMS TopSpeedMPH TractionControl TrailerBodyType
    TrailerType TransmissionStyle Trim Trim2 Turbo VIN VehicleDescriptor VehicleType
    WheelBaseShort Wheels Windows
    """.split(),
    "",
)
"""A row without values: some of vPIC's 148 fields, in its order."""

SOME_POSITIONS: Final = 5
NO_DETAIL: Final = 8
UNKNOWN_CHARACTERS: Final = 14

TRACTOR: Final = "Truck-Tractor"
SEDAN: Final = "Sedan/Saloon"
HATCHBACK: Final = "Hatchback/Liftback/Notchback"
SUV: Final = "Sport Utility Vehicle [SUV]/Multipurpose Vehicle [MPV]"
MPV: Final = "MULTIPURPOSE PASSENGER VEHICLE (MPV)"

HEAVY: Final = "Class 8: 33,001 lb and above (14,969 kg and above)"
MEDIUM: Final = "Class 2E: 6,001 - 7,000 lb (2,722 - 3,175 kg)"
LIGHT: Final = "Class 1D: 5,001 - 6,000 lb (2,268 - 2,722 kg)"


class VehicleClass(NamedTuple):
    """Field values that all vehicles of a maker share."""

    vehicle_type: str
    gvwr: str
    fuel: str
    cylinders: str
    displacement_l: str
    doors: str
    is_light: bool
    """True if a letter at position 7 means a model year of 2010 or later."""
    more: tuple[tuple[str, str], ...] = ()
    """Further values by vPIC's names."""


class VehicleModel(NamedTuple):
    """A model; `descriptor` is positions 4 to 8 of its VINs, if they identify it."""

    name: str
    body_class: str
    descriptor: str = ""


class Maker(NamedTuple):
    """The maker of the vehicles of one WMI, with the fields of each of its models."""

    is_light: bool
    models: tuple[Mapping[str, str], ...]
    by_descriptor: Mapping[str, Mapping[str, str]]
    errors: tuple[int, ...]
    """The error codes of all its vehicles."""
    possible_values: str
    """Valid characters at positions 4 to 8, if those of its vehicles are not."""

    def model_of(self, descriptor: str) -> Mapping[str, str]:
        """Return the fields of the model with positions 4 to 8.

        An unknown descriptor always gives the same model.
        """
        known = self.by_descriptor.get(descriptor)
        if known is not None:
            return known
        # crc32 and not hash(): it is the same in every process.
        return self.models[crc32(descriptor.encode()) % len(self.models)]


NOT_APPLICABLE: Final = tuple(
    (name, "Not Applicable")
    for name in (
        *("BusFloorConfigType", "BusType", "CustomMotorcycleType"),
        *("MotorcycleChassisType", "MotorcycleSuspensionType"),
    )
)
"""vPIC has this value in the fields of other types of vehicles."""
TRACTOR_VALUES: Final = (
    *NOT_APPLICABLE,
    ("BodyCabType", "Conventional"),
    ("BrakeSystemType", "Air"),
    ("DisplacementCC", "14900.0"),
    ("DriveType", "6x4"),
    ("EngineConfiguration", "In-Line"),
    ("EngineManufacturer", "Cummins"),
    ("TrailerBodyType", "Not Applicable"),
    ("TrailerType", "Not Applicable"),
)
CAR_VALUES: Final = (
    *NOT_APPLICABLE,
    ("AirBagLocFront", "1st Row (Driver and Passenger)"),
    ("DriveType", "FWD/Front-Wheel Drive"),
    ("SeatBeltsAll", "Manual"),
    ("Seats", "5"),
    ("TPMS", "Direct"),
    ("TrailerBodyType", "Not Applicable"),
    ("TrailerType", "Not Applicable"),
    ("Trim", "SE "),
)
TRUCKS: Final = VehicleClass(
    "TRUCK ", HEAVY, "Diesel", "6", "14.9", "2", is_light=False, more=TRACTOR_VALUES
)
UNFINISHED: Final = TRUCKS._replace(vehicle_type="INCOMPLETE VEHICLE")
TRAILERS: Final = VehicleClass("TRAILER", "", "", "", "", "", is_light=False)
EUROPEAN: Final = (SOME_POSITIONS, UNKNOWN_CHARACTERS)
"""Codes of cars for Europe, whose positions 4 to 6 are fillers."""
AMERICAN_VALUES: Final = "(4:ABCDEHJK)(5:FGPV)(6:39)(7:AB)(8:PX)"
PICKUPS: Final = VehicleClass(
    "TRUCK ", MEDIUM, "Gasoline", "6", "3.5", "4", is_light=True
)
CARS: Final = VehicleClass(
    "PASSENGER CAR", "", "Gasoline", "4", "2.0", "4", is_light=True, more=CAR_VALUES
)
ELECTRIC: Final = CARS._replace(fuel="Electric", cylinders="", displacement_l="")
SUVS: Final = CARS._replace(vehicle_type=MPV, gvwr=LIGHT)


def _maker(
    company: str,
    plant: str,
    vehicle_class: VehicleClass,
    *models: VehicleModel,
    errors: tuple[int, ...] = (),
    possible_values: str = "",
) -> Maker:
    """Make a maker from "make / manufacturer" and "city / country"."""
    fields = [_fields(company, plant, vehicle_class, model) for model in models]
    by_descriptor = {
        model.descriptor: each
        for model, each in zip(models, fields, strict=True)
        if model.descriptor
    }
    return Maker(
        vehicle_class.is_light, tuple(fields), by_descriptor, errors, possible_values
    )


def _fields(
    company: str, plant: str, vehicle_class: VehicleClass, model: VehicleModel
) -> Mapping[str, str]:
    make, _, manufacturer = company.partition(" / ")
    city, _, country = plant.partition(" / ")
    values = {
        "BodyClass": model.body_class,
        "DisplacementL": vehicle_class.displacement_l,
        "Doors": vehicle_class.doors,
        "EngineCylinders": vehicle_class.cylinders,
        "FuelTypePrimary": vehicle_class.fuel,
        "GVWR": vehicle_class.gvwr,
        "Make": make,
        "MakeID": _number(make),
        "Manufacturer": manufacturer,
        "ManufacturerId": _number(manufacturer),
        "Model": model.name,
        "ModelID": _number(model.name),
        "PlantCity": city,
        "PlantCountry": country,
        "VehicleType": vehicle_class.vehicle_type,
    }
    return {**EMPTY_ROW, **values, **dict(vehicle_class.more)}


def _number(name: str) -> str:
    return str(1 + crc32(name.encode()) % 9999) if name else ""


USA: Final = "UNITED STATES (USA)"

MAKERS: Final[Mapping[str, Maker]] = {
    "1XP": _maker(
        "PETERBILT / PETERBILT MOTORS COMPANY",
        f"DENTON / {USA}",
        TRUCKS,
        VehicleModel("388", TRACTOR, "WD40X"),
        VehicleModel("379", TRACTOR, "5DB9X"),
        VehicleModel("579", TRACTOR),
    ),
    "1XK": _maker(
        "KENWORTH / KENWORTH TRUCK COMPANY",
        f"CHILLICOTHE / {USA}",
        TRUCKS,
        VehicleModel("W9 Series", TRACTOR, "WDB0X"),
        VehicleModel("T680", TRACTOR, "YDP9X"),
        VehicleModel("T800", TRACTOR),
    ),
    "4V4": _maker(
        "VOLVO TRUCK / VOLVO TRUCKS NORTH AMERICA, INC.",
        f"DUBLIN / {USA}",
        TRUCKS,
        VehicleModel("VNL", TRACTOR, "NC9EJ"),
        VehicleModel("VNR ", TRACTOR),
    ),
    "1FU": _maker(
        "FREIGHTLINER / DAIMLER TRUCKS NORTH AMERICA LLC",
        f"CLEVELAND / {USA}",
        TRUCKS,
        VehicleModel("Cascadia", TRACTOR, "JGLDR"),
        VehicleModel("M2", TRACTOR, "BCXBS"),
        VehicleModel("Columbia", "Truck-Tractor "),
    ),
    "3AK": _maker(
        "FREIGHTLINER / DAIMLER TRUCKS NORTH AMERICA LLC",
        "SALTILLO / MEXICO",
        TRUCKS,
        VehicleModel("Cascadia", TRACTOR, "JHHDR"),
    ),
    "1M2": _maker(
        "MACK  / MACK TRUCKS, INC.",
        f"MACUNGIE / {USA}",
        UNFINISHED,
        VehicleModel("GU (Granite)", "Truck", "AX09C"),
        VehicleModel("MRU (TerraPro)", "Truck"),
    ),
    "1JJ": _maker(
        "WABASH VANS / WABASH NATIONAL CORPORATION",
        f"LAFAYETTE / {USA}",
        TRAILERS,
        VehicleModel("Dry Van Duraplate", "Trailer", "V532D"),
    ),
    "1FT": _maker(
        "FORD / FORD MOTOR COMPANY, USA",
        f"DEARBORN / {USA}",
        PICKUPS,
        VehicleModel("F-150", "Pickup", "FW1ET"),
        VehicleModel("F-150 ", "Pickup", "MW1T8"),
        VehicleModel("F-250", "Pickup "),
    ),
    "1HG": _maker(
        "HONDA / HONDA OF AMERICA MFG., INC.",
        f"MARYSVILLE / {USA}",
        CARS,
        VehicleModel("Accord", "Coupe", "CM826"),
        VehicleModel("Civic", SEDAN),
    ),
    "4T1": _maker(
        "TOYOTA / TOYOTA MOTOR MANUFACTURING, KENTUCKY, INC.",
        f"GEORGETOWN / {USA}",
        CARS,
        VehicleModel("Camry", SEDAN, "SK12E"),
        VehicleModel("Avalon", SEDAN),
    ),
    "JTD": _maker(
        "TOYOTA / TOYOTA MOTOR CORPORATION",
        "TOYOTA CITY / JAPAN",
        CARS,
        VehicleModel("Prius", HATCHBACK),
        VehicleModel("Yaris", HATCHBACK),
    ),
    "5YJ": _maker(
        "TESLA / TESLA, INC.",
        f"FREMONT / {USA}",
        ELECTRIC,
        VehicleModel("Model S", HATCHBACK, "SA3DS"),
        VehicleModel("Model 3 ", SEDAN),
    ),
    "WBA": _maker(
        "BMW / BMW AG",
        "MUNICH / GERMANY",
        CARS,
        VehicleModel("328i", SEDAN, "3A5C5"),
        VehicleModel("530i", SEDAN),
    ),
    "5UX": _maker(
        "BMW / BMW MANUFACTURER CORPORATION / BMW NORTH AMERICA",
        f"SPARTANBURG / {USA}",
        SUVS,
        VehicleModel("X3", SUV, "WX7C5"),
        VehicleModel("X5", SUV),
    ),
    "3VV": _maker(
        "VOLKSWAGEN / VOLKSWAGEN DE MEXICO SA DE CV",
        "PUEBLA / MEXICO",
        SUVS,
        VehicleModel("Tiguan", SUV, "3B7AX"),
        VehicleModel("Taos", SUV),
    ),
    "WDC": _maker(
        "MERCEDES-BENZ / MERCEDES-BENZ AG",
        "BREMEN / GERMANY",
        SUVS,
        VehicleModel("GL-Class", SUV, "16687"),
        VehicleModel("GLK-Class", SUV),
        errors=(NO_DETAIL,),
    ),
    "WVG": _maker(
        "VOLKSWAGEN / VOLKSWAGEN AG",
        "WOLFSBURG / GERMANY",
        SUVS._replace(is_light=False, gvwr="", doors=""),
        VehicleModel("", ""),
        errors=EUROPEAN,
        possible_values=AMERICAN_VALUES,
    ),
    "WAU": _maker(
        "AUDI / AUDI AG",
        "INGOLSTADT / GERMANY",
        CARS,
        VehicleModel("", ""),
        errors=EUROPEAN,
        possible_values=AMERICAN_VALUES,
    ),
    "ZA9": _maker(
        "LAMBORGHINI / AUTOMOBILI LAMBORGHINI S.P.A.",
        "SANT'AGATA BOLOGNESE / ITALY",
        CARS,
        VehicleModel("", ""),
        errors=(NO_DETAIL,),
    ),
    "123": _maker(
        "SHERMAN + REILLY / SHERMAN & REILLY, INC.",
        f"CHATTANOOGA / {USA}",
        TRAILERS,
        VehicleModel("", ""),
        errors=(UNKNOWN_CHARACTERS,),
    ),
}
"""Every maker by its WMI; vPIC too has blanks at the end of some values."""
