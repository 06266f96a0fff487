"""The vehicles of the sandbox: what their table promises of each of them."""

from service.sandbox.vehicles import MAKERS, NOTHING


def test_every_model_has_the_fields_of_a_row() -> None:
    """Whatever is known of a vehicle, its fields are the same, and strings."""
    models = [model for maker in MAKERS.values() for model in maker.models]
    assert {tuple(model) for model in models} == {tuple(NOTHING)}
    assert {type(value) for model in models for value in model.values()} == {str}


def test_some_values_are_padded() -> None:
    """Blanks stand at the end of some value of each field that is mostly asked for."""
    padded = {
        name
        for maker in MAKERS.values()
        for model in maker.models
        for name, value in model.items()
        if value != value.strip()
    }
    assert padded == {"BodyClass", "Make", "Model", "VehicleType"}


def test_a_known_descriptor_names_its_model() -> None:
    """Positions 4 to 8 of a vehicle that is known lead to its model."""
    assert MAKERS["1XP"].model_of("WD40X")["Model"] == "388"
    assert MAKERS["1XP"].model_of("5DB9X")["Model"] == "379"


def test_unknown_descriptors_lead_to_all_models() -> None:
    """Any positions 4 to 8 name some model, always the same, and all models occur."""
    tesla = MAKERS["5YJ"]
    descriptors = [f"A{number}" for number in range(100, 200)]
    found = [tesla.model_of(each)["Model"] for each in descriptors]
    assert found == [tesla.model_of(each)["Model"] for each in descriptors]
    assert set(found) == {"Model S", "Model 3 "}
