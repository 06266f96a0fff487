"""Values of Python as JSON."""

import dataclasses
import datetime as dt
import enum
import json
import json.encoder
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from copilot_usage_client import Problem
from copilot_usage_client.encoding import make_encoder
from tests.clients.answering import Server
from tests.clients.conftest import MakeClient

ID = UUID("12345678-1234-5678-1234-567812345678")
ZONE = dt.timezone(dt.timedelta(hours=-5))


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Kind(str, enum.Enum):  # noqa: UP042 - Python 3.9 has no other
    FORM = "form"


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Form:
    owner: Any
    at: Any


TEXT_KEYS = {str(ID): 1, "red": 2, "2021-01-01": 3}
CONVERTED = [
    (dt.datetime(2021, 1, 1, 9, 15, 27, 86, ZONE), "2021-01-01T09:15:27.000086-05:00"),
    (dt.date(2021, 1, 1), "2021-01-01"),
    (dt.time(9, 15), "09:15:00"),
    (Decimal("0.10"), "0.10"),
    (ID, str(ID)),
    (Color.RED, "red"),
    (Level.HIGH, 3),
    (Kind.FORM, "form"),
    (Form(Form(ID, 1), 2), {"owner": {"owner": str(ID), "at": 1}, "at": 2}),
    (b"\x00\xff", "AP8="),
    (bytearray(b"ab"), "YWI="),
    (memoryview(b"ab"), "YWI="),
    (Point(1, 2), [1, 2]),
    ({1: "a", None: "b"}, {"1": "a", "null": "b"}),
    ({ID: 1, Color.RED: 2, dt.date(2021, 1, 1): 3}, TEXT_KEYS),
    (
        [[{ID: [Decimal(1)]}, (True, None, 0.1)]],
        [[{str(ID): ["1"]}, [True, None, 0.1]]],
    ),
    ("Zoë \n\u2028", "Zoë \n\u2028"),
    (10**18, 10**18),
]


@pytest.mark.parametrize(
    "value, expected", CONVERTED, ids=[str(type(value)) for value, _ in CONVERTED]
)
def test_values_are_converted(
    value: Any, expected: Any, make_client: MakeClient, server: Server
) -> None:
    """Each type arrives as the documentation says, also deep inside other values."""
    with make_client() as client:
        client.track("a", "b", {"value": value}, session_id="s")

    (event,) = server.received[0].events
    assert event["data"] == {"value": expected}


def test_all_fields_are_converted(make_client: MakeClient, server: Server) -> None:
    """Names may be ids, numbers and enums; data may be a dataclass, a mapping, None."""
    moment = dt.datetime(2021, 1, 1, 9, 15, 27, tzinfo=ZONE)
    with make_client() as client:
        known = client.track(
            Color.RED, Kind.FORM, Form(1, dt.date(2021, 1, 1)),  # type: ignore[arg-type]
            session_id=ID, timestamp=moment, event_id=ID,
        )  # fmt: skip
        client.track("a", "b", MappingProxyType({"x": 1}), session_id=7)
        client.track("a", "b", session_id="s", timestamp=dt.datetime(2021, 1, 1))  # noqa: DTZ001
        client.track("a", "b", {}, session_id="s", timestamp="2021-01-01 09:15:27")

    assert known == str(ID)
    first, second, third, fourth = server.received[0].events
    assert first == {
        "id": str(ID),
        "session_id": str(ID),
        "category": "red",
        "name": "form",
        "timestamp": "2021-01-01T09:15:27-05:00",
        "data": {"owner": 1, "at": "2021-01-01"},
    }
    assert (second["session_id"], second["data"]) == ("7", {"x": 1})
    assert (third["data"], third["timestamp"]) == ({}, "2021-01-01T00:00:00")
    assert fourth["timestamp"] == "2021-01-01 09:15:27"


class Rude:
    """An object that raises wherever it can."""

    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError(name)


CIRCLE: dict[str, Any] = {}
CIRCLE["itself"] = CIRCLE
DEEP: dict[str, Any] = {}
for _ in range(100_000):
    DEEP = {"deeper": DEEP}
INVALID = {
    "NaN": {"x": float("nan")},
    "infinity": {"x": float("inf")},
    "circle": CIRCLE,
    "deep": DEEP,
    "surrogate": {"x": "\ud800"},
    "huge": {"x": "x" * 1_000_000},
    "huge number": {"x": 10**5000},
    "object": {"x": object()},
    "rude": {"x": Rude()},
    "set": {"x": {1}},
    "type": {"x": Form},
    "key": {(1, 2): 1},
    "list": [1],
    "text": "text",
    "number": 7,
}


@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID.keys())
def test_what_has_no_json_is_reported(
    data: Any, make_client: MakeClient, server: Server, problems: list[Problem]
) -> None:
    """`track` returns None and reports the event, and the next event is delivered."""
    with make_client() as client:
        assert client.track("a", "b", data, session_id="s") is None
        good = client.track("a", "b", {"x": 1}, session_id="s")

    (problem,) = problems
    assert (problem.code, problem.events) == ("invalid", 1)
    assert problem.event is not None
    assert problem.event["data"] is data
    assert server.accepted == [good]


@pytest.mark.parametrize("field", ["session_id", "category", "name", "timestamp"])
@pytest.mark.parametrize(
    "value",
    [1.5, {}, object(), "\ud800"],
    ids=["float", "object", "other", "surrogate"],
)
def test_a_field_that_is_no_text_is_reported(
    field: str, value: Any, make_client: MakeClient, problems: list[Problem]
) -> None:
    """No value of any field raises."""
    fields = {"category": "a", "name": "b", "session_id": "s"} | {field: value}
    with make_client() as client:
        assert client.track(**fields) is None

    assert [each.code for each in problems] == ["invalid"]


def test_later_changes_of_data_have_no_effect(
    make_client: MakeClient, server: Server
) -> None:
    """`track` encodes the data at once."""
    data = {"x": 1}
    with make_client() as client:
        client.track("a", "b", data, session_id="s")
        data["x"] = 2

    assert server.received[0].events[0]["data"] == {"x": 1}


def test_without_the_compiled_encoder_the_text_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A Python without it uses the public encoder."""
    value = {"a": [1, "ë", None, {"b": ID}], "c": 0.1}
    compiled = make_encoder()(value)
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)

    assert make_encoder()(value) == compiled
    assert json.loads(compiled) == {"a": [1, "ë", None, {"b": str(ID)}], "c": 0.1}
