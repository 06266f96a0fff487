"""Parsing: every JSON value becomes an event or a failure; none is dropped."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.events import validation
from service.events.errors import NotJson, TooManyEvents
from service.events.model import (
    MAX_DATA_BYTES,
    MAX_ERRORS,
    Event,
    EventError,
    EventFailure,
)
from service.events.parsing import NDJSON, EventParser, key_of, split_body
from service.events.schemas import load_types
from service.events.splitting import read_error
from service.events.validation import conflict_of
from service.instants import US_PER_S
from service.settings import config_folder, load
from tests.events.conftest import SESSION, TIMESTAMP, event

JSON: Final = "application/json"
NOW_US: Final = 1_800_000_000 * US_PER_S
MAX_EVENTS: Final = 3
REMOVED: Final = object()

PARSER: Final = EventParser(
    load_types(load().settings.events, config_folder() / "event_types"),
    future_skew_s=60,
    clock=lambda: NOW_US,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
fields = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from([event()[name]]) | json_values
        for name in ("session_id", "category", "name", "timestamp", "data")
    }
    | {"id": json_values, "more": json_values},
)


def parse(said: Any) -> Event | EventFailure:
    """Parse an event, from a value or from a JSON text."""
    text = said if isinstance(said, str | bytes) else json.dumps(said)
    return PARSER.parse(text.encode() if isinstance(text, str) else text, "shop")


def parse_valid(said: Any) -> Event:
    """Parse a valid event."""
    parsed = parse(said)
    assert isinstance(parsed, Event), parsed
    return parsed


def errors_of(said: Any) -> list[tuple[str, str]]:
    """Return the codes and paths of the errors."""
    parsed = parse(said)
    assert isinstance(parsed, EventFailure), parsed
    return [(error.code, error.path) for error in parsed.errors]


@pytest.mark.parametrize(
    "body, content_type, texts",
    [
        pytest.param(b'{"a": 1}', JSON, [b'{"a": 1}'], id="object"),
        pytest.param(b' \n{"a": 1}\n', JSON, [b'{"a": 1}'], id="blanks around"),
        pytest.param(b"[]", JSON, [], id="empty list"),
        pytest.param(
            b'\t[{"a":1}, 2 ,[3]]', JSON, [b'{"a":1}', b"2", b"[3]"], id="list"
        ),
        pytest.param(b'{"a":1}\n[2]\r\n\n', NDJSON, [b'{"a":1}', b"[2]"], id="lines"),
    ],
)
def test_bodies_are_split(body: bytes, content_type: str, texts: list[bytes]) -> None:
    """Each event is a slice of the body."""
    assert split_body(body, content_type, MAX_EVENTS) == texts


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b" \n", id="blanks"),
        pytest.param(b"none", id="text"),
        pytest.param(b'[{"a": 1},]', id="comma too many"),
        pytest.param(b'[{"a": 1},,{}]', id="comma in between"),
        pytest.param(b'[{"a": 1}', id="list cut off"),
        pytest.param(b'[{"a": "\\ud800}, 1]', id="text cut off"),
        pytest.param(b'[{"a": 1}]]', id="bracket too many"),
        pytest.param(b'[{"a": 1}] 2', id="value after the list"),
        pytest.param(b'{"a": NaN}', id="NaN"),
        pytest.param(b'{"a": "\\ud8zz"}', id="no escape"),
        pytest.param(b'"\xff"', id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"a":' * 50_000 + b"1", id="deep object, cut off"),
        pytest.param(b'{"a": 1}\n{"a": ', id="second line cut off"),
    ],
)
def test_a_body_that_cannot_be_split_is_refused(body: bytes) -> None:
    """Such a body raises `NotJson` and nothing else."""
    with pytest.raises(NotJson, match=r"the body is (not|empty)"):
        split_body(body, JSON, MAX_EVENTS)


@pytest.mark.parametrize(
    "body, content_type", [(b"[1,2,3,4]", JSON), (b"1\n2\n3\n4\n", NDJSON)]
)
def test_too_many_events_are_refused(body: bytes, content_type: str) -> None:
    """A request may have `max_events` events and no more."""
    with pytest.raises(TooManyEvents, match="4 events; 3 are allowed"):
        split_body(body, content_type, MAX_EVENTS)
    assert len(split_body(body, content_type, 4)) == 4


@given(
    body=st.binary()
    | st.text(st.sampled_from('[]{},:" \\\\1ed.\\n')).map(str.encode)
    | json_values.map(msgspec.json.encode)
)
def test_any_body_is_parsed_or_refused(body: bytes) -> None:
    """Any body becomes events and failures, which can be stored, or is refused."""
    for content_type in (JSON, NDJSON):
        try:
            items = PARSER.parse_body(body, content_type, 1_000, "shop")
        except NotJson:
            continue
        for item in items:
            assert isinstance(item, EventFailure)
            assert "\0" not in item.event
            assert msgspec.json.encode([item.event, item.errors])


@given(values=st.lists(json_values, max_size=4))
def test_any_json_values_are_split(values: list[Any]) -> None:
    """A list, lines, or a value that is no list: none raises `NotJson`."""
    texts = [msgspec.json.encode(value) for value in values]
    events = [msgspec.json.decode(text) for text in texts]

    in_list = split_body(msgspec.json.encode(values), JSON, 1_000)
    in_lines = split_body(b"\n".join(texts), NDJSON, 1_000)
    alone = [
        split_body(text, JSON, 1_000)
        for text, value in zip(texts, values, strict=True)
        if not isinstance(value, list)
    ]

    assert [msgspec.json.decode(text) for text in in_list] == events
    assert in_lines == texts
    assert alone == [[text] for text in texts if not text.startswith(b"[")]


def described(item: Event | EventFailure) -> Any:
    """Return an event's values and its text, however that is found."""
    if isinstance(item, EventFailure):
        errors = [(each.code, each.path) for each in item.errors]
        return replace(item, errors=()), errors
    return replace(item, source=item.read_text())


@given(
    values=st.lists(fields.map(lambda given: event() | given) | json_values, max_size=4)
)
@example(values=[event(id="a"), event(id="b", name="c")])
@example(values=[event(data={"host": "a", "path": "\0"}), event(id="\0"), event()])
@example(values=[event(), event(data={"host": "a", "path": "/", "n": 10**400})])
def test_a_body_is_parsed_as_its_events_are(values: list[Any]) -> None:
    """A list, and lines, give what each event gives on its own, but for the line."""
    texts = [json.dumps(value).encode() for value in values]
    for body, content_type in (
        (b" [" + b" , ".join(texts) + b"]", JSON),
        (b"\r\n\n".join(texts), NDJSON),
    ):
        alone = [parse(text) for text in split_body(body, content_type, 1_000)]
        found = PARSER.parse_body(body, content_type, 1_000, "shop")
        assert list(map(described, found)) == list(map(described, alone))


BAD_DATA: Final = [
    pytest.param(b'{"a": "\\ud800"}', "unreadable", id="lone surrogate"),
    pytest.param(b'{"a": "\\ud800\\\\"}', "unreadable", id="surrogate, backslash"),
    pytest.param(b'{"a": "\\uDC00 ]}"}', "unreadable", id="low surrogate"),
    pytest.param(b'{"\\ud83d": 1}', "unreadable", id="lone surrogate as a name"),
    pytest.param(b'{"a": 1e400}', "unreadable", id="large number"),
    pytest.param(b'{"a": -1E999999999}', "unreadable", id="huge exponent"),
    pytest.param(b'{"a": %b}' % (b"1" * 5_000), "unreadable", id="long integer"),
    pytest.param(
        b'{"a": %b1%b}' % (b"[" * 5_000, b"]" * 5_000), "unreadable", id="deep"
    ),
    pytest.param(b'{"a": NaN}', "not_json", id="NaN"),
    pytest.param(b'{"a": "\xff"}', "not_json", id="not UTF-8"),
    pytest.param(b'{"a": "\x00"}', "not_json", id="NUL"),
    pytest.param(b"{'a': 1}", "not_json", id="other quotes"),
    pytest.param(b'{"a": 1,}', "not_json", id="comma too many"),
]


@pytest.mark.parametrize("data, code", BAD_DATA)
@pytest.mark.parametrize("content_type", [JSON, NDJSON, "application/ndjson"])
def test_an_item_that_cannot_be_read_fails_alone(
    data: bytes, code: str, content_type: str
) -> None:
    """Its neighbours are accepted; its text and the fields that can be read stay."""
    valid = json.dumps(event()).encode()
    broken = json.dumps(event(id="a", data=0)).encode().replace(b": 0", b": " + data)
    body = b"\r\n\n".join([valid, broken, valid])
    if content_type == JSON:
        body = b"[%b , %b,%b]" % (valid, broken, valid)

    first, failed, last = PARSER.parse_body(body, content_type, 3, "shop")

    assert isinstance(first, Event)
    assert isinstance(last, Event)
    assert isinstance(failed, EventFailure)
    text = broken.decode(errors="backslashreplace").replace("\0", "\\x00")
    assert failed.event == text
    assert [error.code for error in failed.errors] == [code]
    if code == "unreadable":
        assert failed.errors[0].path == "/data"
        assert (failed.session_id, failed.event_id) == (SESSION, "a")
    elif content_type != JSON:
        assert failed.errors[0].message.startswith("line 3: not ")


@pytest.mark.parametrize("data, code", BAD_DATA)
def test_a_single_event_that_cannot_be_read(data: bytes, code: str) -> None:
    """It fails if it is JSON; otherwise the body is refused."""
    body = json.dumps(event(data=0)).encode().replace(b": 0", b": " + data)

    if code == "not_json":
        with pytest.raises(NotJson):
            PARSER.parse_body(body, JSON, 1, "shop")
    else:
        (failed,) = PARSER.parse_body(body, JSON, 1, "shop")
        assert isinstance(failed, EventFailure)
        assert [error.path for error in failed.errors] == ["/data"]


@pytest.mark.parametrize(
    "text, path",
    [
        ({"name": "\ud800"}, "/name"),
        ({"timestamp": "\udfff"}, "/timestamp"),
        ({"\ud800": 1}, ""),
    ],
)
def test_a_field_that_cannot_be_read_is_named(text: Any, path: str) -> None:
    """A surrogate without a partner is reported at its field."""
    assert errors_of(event(**text)) == [("unreadable", path)]


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_a_byte_order_mark_is_skipped(content_type: str) -> None:
    """It may begin a body, also one that is split, and each joined file of lines."""
    for one in (event(), event(name="")):
        text = b"\xef\xbb\xbf" + json.dumps(one).encode()
        body = text if content_type == JSON else text + b"\n" + text
        (first, *others) = PARSER.parse_body(body, content_type, 3, "shop")
        assert isinstance(first, Event if one == event() else EventFailure)
        assert len(others) == (content_type == NDJSON)
        for each in (first, *others):
            if isinstance(each, EventFailure):
                assert each.event == json.dumps(one)


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_too_many_valid_events_are_refused(content_type: str) -> None:
    """The number is checked before anything is stored."""
    texts = [json.dumps(event()).encode()] * 4
    body = b"\n".join(texts)
    if content_type == JSON:
        body = b"[" + b",".join(texts) + b"]"

    with pytest.raises(TooManyEvents, match="4 events; 3 are allowed"):
        PARSER.parse_body(body, content_type, MAX_EVENTS, "shop")
    assert len(PARSER.parse_body(body, content_type, 4, "shop")) == 4


@given(said=json_values | fields | fields.map(lambda given: event() | given))
@example(said=event(data={"host": "a", "path": "/", "n": 10**400}))
@example(said=event(data={"host": "a", "path": "/", "n": -(2**64)}))
@example(said=event(data={"host": "a", "path": "/", "text": "a\0b"}))
@example(said=event(session_id="\0"))
@example(said=None)
def test_any_value_is_an_event_or_a_failure(said: Any) -> None:
    """Parsing never raises; a failure has the whole text and its errors."""
    text = json.dumps(said)

    found = parse(text)

    if isinstance(found, EventFailure):
        assert found.event == text
        assert 0 < len(found.errors) <= MAX_ERRORS
        assert all(error.code and error.message for error in found.errors)
        assert msgspec.json.decode(msgspec.json.encode(found.errors))
    else:
        assert json.loads(found.data) == said["data"]
        assert found.timestamp == said["timestamp"]


@pytest.mark.parametrize(
    "change, code, path",
    [
        pytest.param({"data": REMOVED}, "missing", "/data", id="no data"),
        pytest.param({"category": None}, "wrong_type", "/category", id="null"),
        pytest.param({"id": None}, "wrong_type", "/id", id="null id"),
        pytest.param({"name": ""}, "wrong_length", "/name", id="empty"),
        pytest.param({"id": ""}, "wrong_length", "/id", id="empty id"),
        pytest.param({"name": "n" * 201}, "wrong_length", "/name", id="long"),
        pytest.param({"id": "\0"}, "nul_character", "/id", id="NUL in id"),
        pytest.param(
            {"timestamp": f"{TIMESTAMP}\0"},
            "nul_character",
            "/timestamp",
            id="NUL in time",
        ),
        pytest.param({"user": 1}, "unknown_field", "/user", id="unknown"),
        pytest.param({"a/b~": 1}, "unknown_field", "/a~1b~0", id="unknown, escaped"),
        pytest.param({"data": "{}"}, "wrong_type", "/data", id="text"),
        pytest.param(
            {"data": {"host": 1, "path": "/"}},
            "schema",
            "/data/host",
            id="schema inside",
        ),
        pytest.param({"timestamp": 1}, "wrong_type", "/timestamp", id="no text"),
        pytest.param(
            {"timestamp": "yesterday"}, "unreadable_timestamp", "/timestamp", id="words"
        ),
        pytest.param(
            {"timestamp": "2021-01-01"}, "unreadable_timestamp", "/timestamp", id="date"
        ),
        pytest.param(
            {"timestamp": "2021-02-30 09:15"},
            *("unreadable_timestamp", "/timestamp"),
            id="February 30",
        ),
        pytest.param(
            {"timestamp": "9999-12-31T23:59:59-14:00"},
            *("future_timestamp", "/timestamp"),
            id="after year 9999",
        ),
    ],
)
def test_each_error_has_its_code_and_path(change: Any, code: str, path: str) -> None:
    """One mistake gives one error."""
    said = {
        name: value for name, value in event(**change).items() if value is not REMOVED
    }

    assert errors_of(said) == [(code, path)]


def test_all_errors_are_reported_at_once() -> None:
    """An event with several mistakes has an error for each."""
    said = {"session_id": "", "category": 1, "data": 5, "timestamp": "?", "more": 1}

    assert errors_of(said) == [
        ("unknown_field", "/more"),
        ("missing", "/name"),
        ("wrong_length", "/session_id"),
        ("wrong_type", "/category"),
        ("wrong_type", "/data"),
        ("unreadable_timestamp", "/timestamp"),
    ]


def test_unknown_members_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of nothing else, each of which no reader accepts, costs little."""
    reads: list[bytes] = []

    def read(text: bytes, path: str = "") -> EventError | None:
        reads.append(text)
        return read_error(text, path)

    monkeypatch.setattr(validation, "read_error", read)
    members = ", ".join(f'"{place}": "\\ud800"' for place in range(1_000))

    errors = errors_of(f"{{{members}}}")

    assert errors[0] == ("unknown_field", "/0")
    assert len(errors) == MAX_ERRORS
    assert len(reads) < 10


@pytest.mark.parametrize("said", [None, True, 5, 1.5, "text", [], [event()]])
def test_an_event_that_is_no_object_fails(said: Any) -> None:
    """Any other JSON value is a failure of type."""
    assert errors_of(json.dumps(said)) == [("wrong_type", "")]


def test_a_failure_has_the_fields_of_filters() -> None:
    """Names and time of a failure are parsed even if its data is unreadable."""
    text = json.dumps(event(id="a-1", data=0)).replace(
        '"data": 0', '"data": {"n": 1e999}'
    )

    found = parse(text)

    assert isinstance(found, EventFailure)
    assert [(each.code, each.path) for each in found.errors] == [
        ("unreadable", "/data")
    ]
    assert (found.event_id, found.session_id) == ("a-1", SESSION)
    assert (found.category, found.name) == ("page interaction", "pageview")
    assert found.at == 1_609_492_527_243_860


def test_a_nul_in_data_is_valid() -> None:
    """In `data` a NUL is escaped JSON text, which every database can store."""
    said = event(data={"host": "a", "path": "/", "text": "a\0b"})

    assert json.loads(parse_valid(said).data) == said["data"]


def test_data_has_a_maximum_size() -> None:
    """The maximum counts bytes without white space, and the rest is not stored."""
    frame = len('{"host":"a","path":"/","more":""}')
    largest = {"host": "a", "path": "/", "more": "x" * (MAX_DATA_BYTES - frame)}

    for text in (json.dumps(event(data=largest), indent=8), event(data=largest)):
        found = parse_valid(text)
        assert len(found.data) == MAX_DATA_BYTES
        assert json.loads(found.data) == largest
        assert (
            found.digest == parse_valid(msgspec.json.encode(event(data=largest))).digest
        )
    larger = largest | {"more": largest["more"] + "x"}
    assert errors_of(event(data=larger)) == [("data_too_large", "/data")]


def test_an_event_has_a_maximum_number_of_errors() -> None:
    """Twenty errors are enough to find the cause."""
    many = {f"{number:x}": 0 for number in range(10_000)}
    assert len(errors_of(event() | many)) == MAX_ERRORS


@pytest.mark.parametrize("levels", [200, 300, 900])
@pytest.mark.parametrize("host", ["a", 5])
def test_deep_data_is_an_event_or_a_failure(levels: int, host: object) -> None:
    """Parsing raises nothing for any depth that JSON bodies may have."""
    deep = '{"a":' * levels + "1" + "}" * levels
    text = json.dumps(event(data={"host": host, "path": "/", "a": 0}))
    text = text.replace('"a": 0', f'"a": {deep}')

    (source,) = split_body(text.encode(), JSON, 1)
    found = parse(source)

    if host == "a":
        assert isinstance(found, Event)
    else:
        assert isinstance(found, EventFailure)
        assert found.event == text
        assert {each.code for each in found.errors} <= {"schema", "unreadable"}


@given(
    moment=st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(2026, 12, 31)),  # noqa: DTZ001
    offset=st.none()
    | st.integers(-1439, 1439).map(
        lambda minutes: timezone(timedelta(minutes=minutes))
    ),
    separator=st.sampled_from("Tt "),
)
@example(moment=datetime(1, 1, 1), offset=timezone(timedelta(hours=14)), separator=" ")  # noqa: DTZ001
def test_timestamps_of_any_year_and_offset_are_valid(
    moment: datetime, offset: timezone | None, separator: str
) -> None:
    """A timestamp has any year and offset; without an offset it is UTC."""
    said = moment.replace(tzinfo=offset)

    found = parse_valid(event(timestamp=said.isoformat(separator)))

    since = said.replace(tzinfo=offset or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    assert found.at == since // timedelta(microseconds=1)


def test_an_event_may_be_ahead_by_the_allowed_skew() -> None:
    """A minute is allowed, and no microsecond more."""
    edge = datetime.fromtimestamp(NOW_US / US_PER_S, UTC) + timedelta(minutes=1)

    assert isinstance(parse(event(timestamp=edge.isoformat())), Event)
    late = edge + timedelta(microseconds=1)
    assert errors_of(event(timestamp=late.isoformat())) == [
        ("future_timestamp", "/timestamp")
    ]


@pytest.mark.parametrize(
    "one, other, is_same",
    [
        pytest.param('{"a":1,"b":2}', '{ "b" : 2, "a" : 1 }', True, id="order, blanks"),
        pytest.param('{"a":"\\u00e9"}', '{"a":"é"}', True, id="escapes"),
        pytest.param('{"a":1.0}', '{"a":1.00}', True, id="zeros"),
        pytest.param('{"a":1,"a":2}', '{"a":2}', True, id="member twice: the last"),
        pytest.param('{"a":1}', '{"a":1.0}', False, id="integer and float"),
        pytest.param(
            '{"a":9007199254740993.0}', '{"a":9007199254740992.0}', False, id="2⁵³.0"
        ),
        pytest.param(
            '{"a":90071992547409930e-1}',
            '{"a":9007199254740993.0}',
            True,
            id="exponents",
        ),
        pytest.param('{"a":0.1}', '{"a":0.10000000000000001}', False, id="17 digits"),
        pytest.param('{"a":0.1}', '{"a":0.1000000000000000000}', True, id="many zeros"),
        pytest.param('{"a":0.0}', '{"a":1e-400}', False, id="nearly zero"),
        pytest.param('{"a":1e-401}', '{"a":1E-400}', False, id="nearly zero, both"),
        pytest.param('{"a":0.0}', '{"a":0e-400}', True, id="zero"),
        pytest.param('{"a":0.0}', '{"a":-0.0}', False, id="negative zero"),
        pytest.param('{"a":1e2}', '{"a":100.0}', True, id="exponent"),
        pytest.param('{"a":1}', '{"a":true}', False, id="1 and true"),
        pytest.param('{"a":[1,2]}', '{"a":[2,1]}', False, id="order of a list"),
        pytest.param('{"a":null}', "{}", False, id="null and nothing"),
        pytest.param(
            '{"a":9007199254740993}', '{"a":9007199254740992}', False, id="2⁵³"
        ),
    ],
)
def test_the_content_decides_identity(one: str, other: str, is_same: bool) -> None:  # noqa: FBT001
    """Values count, not their layout; 1 and 1.0 are different values."""
    named = {"category": "any", "name": "other"}
    text = json.dumps(event(**named, data=0))
    texts = [text.replace('"data": 0', f'"data": {data}') for data in (one, other)]

    first, second = map(parse_valid, texts)

    assert (first.digest == second.digest) == is_same
    assert (first.id == second.id) == is_same
    assert (first.key == second.key) == is_same


@pytest.mark.parametrize("name", ["session_id", "category", "name", "timestamp"])
def test_every_field_is_part_of_the_content(name: str) -> None:
    """Events that differ in one field have different digests."""
    other = {"timestamp": "2021-01-01 09:15:27.243861"}.get(name, "other")

    assert parse_valid(event()).digest != parse_valid(event(**{name: other})).digest


def test_keys_of_applications_differ() -> None:
    """The same event of two applications has two keys, whatever their names."""
    text = json.dumps(event(id="c")).encode()
    keys = {PARSER.parse(text, name).id for name in ("a", "b")}

    assert keys == {"c"}
    assert key_of("a", "c") != key_of("b", "c")
    assert key_of("a", "bc") != key_of("ab", "c")


def called_deeper(frames: int, call: Callable[[], Any]) -> Any:
    """Call a function with this number of frames more on the stack."""
    return call() if not frames else called_deeper(frames - 1, call)


def test_the_text_of_a_deep_event_is_found_at_any_depth() -> None:
    """A conflict is found by the writer, which has another stack than the request."""
    deep = '{"a":' * 850 + "1" + "}" * 850
    plain = [json.dumps(event(id=each, category="any", data=0)) for each in "ab"]
    texts = [each.replace('"data": 0', f'"data": {deep}') for each in plain]

    body = f"[{','.join(texts)}]".encode()
    parsed = PARSER.parse_body(body, JSON, MAX_EVENTS, "shop")

    taken = [each for each in parsed if isinstance(each, Event)]
    assert len(taken) == 2
    failures = called_deeper(120, lambda: [conflict_of(each) for each in taken])
    assert [each.event for each in failures] == texts


def test_a_conflict_is_a_failure_with_the_whole_event() -> None:
    """The same conflict is the same failure."""
    taken = parse_valid(event(id="a-1"))

    failure = conflict_of(taken)

    assert failure == conflict_of(taken)
    assert [each.code for each in failure.errors] == ["conflict"]
    assert (failure.event_id, failure.session_id) == ("a-1", SESSION)
    assert failure.event.encode() == taken.read_text()


def test_failures_are_identified_by_application_and_content() -> None:
    """The id of a failure depends on its application and its text only."""
    text = json.dumps(event(name="")).encode()
    found = [PARSER.parse(text, "shop"), PARSER.parse(text, "shop")]
    others = [PARSER.parse(text, "other"), PARSER.parse(text + b" ", "shop")]

    assert len({each.id for each in found}) == 1
    assert len({each.id for each in (found[0], *others)}) == 3
