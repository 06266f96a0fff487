"""Selection of the values of a row that an answer has, beside the basic ones."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final, NamedTuple

from service.vehicles.details import Details, unpack
from service.vehicles.model import Vehicle, Vin
from service.vehicles.vin import number_of

NAMES: Final = frozenset(
    """
    ABS ActiveSafetySysNote AdaptiveCruiseControl AdaptiveDrivingBeam
    AdditionalErrorText AirBagLocCurtain AirBagLocFront AirBagLocKnee
    AirBagLocSeatCushion AirBagLocSide AutoReverseSystem
    AutomaticPedestrianAlertingSound AxleConfiguration Axles BasePrice BatteryA
    BatteryA_to BatteryCells BatteryInfo BatteryKWh BatteryKWh_to BatteryModules
    BatteryPacks BatteryType BatteryV BatteryV_to BedLengthIN BedType
    BlindSpotIntervention BlindSpotMon BodyCabType BodyClass BrakeSystemDesc
    BrakeSystemType BusFloorConfigType BusLength BusType CAN_AACN CIB ChargerLevel
    ChargerPowerKW CombinedBrakingSystem CoolingType CurbWeightLB
    CustomMotorcycleType DaytimeRunningLight DestinationMarket DisplacementCC
    DisplacementCI DisplacementL Doors DriveType DynamicBrakeSupport EDR ESC
    EVDriveUnit ElectrificationLevel EngineConfiguration EngineCycles
    EngineCylinders EngineHP EngineHP_to EngineKW EngineManufacturer EngineModel
    EntertainmentSystem ErrorCode ErrorText ForwardCollisionWarning
    FuelInjectionType FuelTankMaterial FuelTankType FuelTypePrimary
    FuelTypeSecondary GCWR GCWR_to GVWR GVWR_to KeylessIgnition
    LaneCenteringAssistance LaneDepartureWarning LaneKeepSystem
    LowerBeamHeadlampLightSource Make MakeID Manufacturer ManufacturerId Model
    ModelID ModelYear MotorcycleChassisType MotorcycleSuspensionType NonLandUse Note
    OtherBusInfo OtherEngineInfo OtherMotorcycleInfo OtherRestraintSystemInfo
    OtherTrailerInfo ParkAssist PedestrianAutomaticEmergencyBraking PlantAddress
    PlantCity PlantCompanyName PlantCountry PlantState PossibleValues Pretensioner
    RearAutomaticEmergencyBraking RearCrossTrafficAlert RearVisibilitySystem
    SAEAutomationLevel SAEAutomationLevel_to SeatBeltsAll SeatRows Seats
    SemiautomaticHeadlampBeamSwitching Series Series2 SteeringLocation SuggestedVIN
    TPMS TopSpeedMPH TrackWidth TractionControl TrailerBodyType TrailerLength
    TrailerType TransmissionSpeeds TransmissionStyle Trim Trim2 Turbo VIN
    ValveTrainDesign VehicleDescriptor VehicleType WheelBaseLong WheelBaseShort
    WheelBaseType WheelSizeFront WheelSizeRear WheelieMitigation Wheels Windows
    """.split()
)
"""The variables of vPIC, which `fields` may name in any case."""
BASIC_NAME: Final = "basic"
ALL_NAME: Final = "all"
MAX_SHOWN_CHARS: Final = 40

_BY_LOWER_CASE: Final = {name.lower(): name for name in NAMES}


class UnknownField(Exception):
    """A selection has a name that vPIC does not have; the text says which."""


class Fields(NamedTuple):
    """The values that an answer has under vPIC's names."""

    is_basic: bool = True
    """True for none of them."""
    names: frozenset[str] | None = None
    """None for all that are not empty."""

    @property
    def columns(self) -> list[str]:
        """The names in order; for all values, all names that vPIC has."""
        if self.is_basic:
            return []
        return sorted(NAMES if self.names is None else self.names)

    def of(self, vin: Vin, vehicle: Vehicle, packed: bytes) -> Details:
        """Return the values of an entry that are not empty.

        An entry of an older version has the basic ones only.
        """
        details = unpack(packed) if packed else _basic(vin, vehicle)
        if self.names is None:
            return details
        return {name: text for name, text in details.items() if name in self.names}


BASIC: Final = Fields()
ALL: Final = Fields(is_basic=False)


def parse_fields(selection: str | Sequence[str]) -> Fields:
    """Return a selection: `basic`, `all`, or names; raise `UnknownField`."""
    texts = selection.split(",") if isinstance(selection, str) else selection
    given = {each.strip().lower() for each in texts}
    named = frozenset(map(_name_of, sorted(given - {"", BASIC_NAME, ALL_NAME})))
    if ALL_NAME in given:
        return ALL
    return Fields(is_basic=False, names=named) if named else BASIC


def _name_of(text: str) -> str:
    name = _BY_LOWER_CASE.get(text)
    if name is None:
        close = get_close_matches(text[:MAX_SHOWN_CHARS], _BY_LOWER_CASE, 1)
        hint = f"; did you mean {_BY_LOWER_CASE[close[0]]}?" if close else ""
        raise UnknownField(
            f"vPIC has no field {text[:MAX_SHOWN_CHARS]!a}{hint or ';'} "
            f"expected {BASIC_NAME}, {ALL_NAME}, or names of vPIC such as GVWR"
        )
    return name


def _basic(vin: Vin, vehicle: Vehicle) -> Details:
    values = {
        "BodyClass": vehicle.body_class,
        "Make": vehicle.make,
        "Model": vehicle.model,
        "ModelYear": vehicle.model_year,
        "VIN": number_of(vin),
    }
    return {name: value for name, value in values.items() if value}
