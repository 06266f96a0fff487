"""What applications send is read as events or kept as failures, and never dropped."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.events.errors import NotJson, TooManyEvents
from service.events.model import MAX_DATA_BYTES, MAX_ERRORS, Event, Failure
from service.events.reading import NDJSON, EventReader, conflict_of, key_of, split_body
from service.events.schemas import load_types
from service.instants import US_PER_S
from service.settings import config_folder, load
from tests.events.conftest import SESSION, TIMESTAMP, event

JSON: Final = "application/json"
NOW_US: Final = 1_800_000_000 * US_PER_S
MOST: Final = 3
REMOVED: Final = object()

READER: Final = EventReader(
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


def read(said: Any) -> Event | Failure:
    """An event's value, or its JSON text, as the service reads it."""
    text = said if isinstance(said, str | bytes) else json.dumps(said)
    return READER.read(text.encode() if isinstance(text, str) else text, "shop")


def read_event(said: Any) -> Event:
    """The same, of what keeps its contract."""
    read_as = read(said)
    assert isinstance(read_as, Event), read_as
    return read_as


def errors_of(said: Any) -> list[tuple[str, str]]:
    """The codes and paths of what is wrong."""
    read_as = read(said)
    assert isinstance(read_as, Failure), read_as
    return [(error.code, error.path) for error in read_as.errors]


# --- bodies -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, content_type, texts",
    [
        pytest.param(b'{"a": 1}', JSON, [b'{"a": 1}'], id="object"),
        pytest.param(b' \n{"a": 1}\n', JSON, [b'{"a": 1}'], id="blanks around"),
        pytest.param(b"[]", JSON, [], id="empty list"),
        pytest.param(
            b'\t[{"a":1}, 2 ,[3]]', JSON, [b'{"a":1}', b"2", b"[3]"], id="list"
        ),
        pytest.param(b"5", JSON, [b"5"], id="no event"),
        pytest.param(b'{"a":1}\n[2]\r\n\n', NDJSON, [b'{"a":1}', b"[2]"], id="lines"),
        pytest.param(b"\n\n", NDJSON, [], id="empty lines"),
    ],
)
def test_bodies_are_split(body: bytes, content_type: str, texts: list[bytes]) -> None:
    """Each event is cut out as it was written."""
    assert split_body(body, content_type, MOST) == texts


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b'[{"a": 1},]', id="comma too many"),
        pytest.param(b'{"a": 1}{"a": 2}', id="two"),
        pytest.param(b'{"a": NaN}', id="NaN"),
        pytest.param(b'["\\ud800 "]', id="lone surrogate"),
        pytest.param(b'["\x00"]', id="raw NUL"),
        pytest.param(b'["\xff"]', id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, id="deep object"),
        pytest.param(b"\xef\xbb\xbf[]", id="byte order mark"),
    ],
)
@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_what_is_no_json_is_refused(body: bytes, content_type: str) -> None:
    """A body that is no JSON text holds no events; nothing else is raised."""
    if content_type == NDJSON and not body:
        assert split_body(body, content_type, MOST) == []
        return
    with pytest.raises(NotJson, match="the body is"):
        split_body(body, content_type, MOST)


def test_a_line_that_is_no_json_refuses_all() -> None:
    """Of lines it is all or nothing: what was meant with the rest is not known."""
    with pytest.raises(NotJson):
        split_body(b'{"a": 1}\n{"a": ', NDJSON, MOST)


@pytest.mark.parametrize(
    "body, content_type", [(b"[1,2,3,4]", JSON), (b"1\n2\n3\n4\n", NDJSON)]
)
def test_too_many_events_are_refused(body: bytes, content_type: str) -> None:
    """One more than a request may hold is too many."""
    with pytest.raises(TooManyEvents, match="4 events; 3 are allowed"):
        split_body(body, content_type, MOST)
    assert len(split_body(body, content_type, 4)) == 4


@given(
    body=st.binary() | st.text().map(str.encode) | json_values.map(msgspec.json.encode)
)
def test_any_body_is_split_or_refused(body: bytes) -> None:
    """Whatever comes is JSON texts that can be read one by one, or no body of ours."""
    for content_type in (JSON, NDJSON):
        try:
            texts = split_body(body, content_type, 1_000)
        except NotJson:
            continue
        for text in texts:
            read(text)


# --- events -------------------------------------------------------------------------


def test_an_event_is_read_whole() -> None:
    """Fields are what was sent, verbatim, with the instant that the timestamp means."""
    text = json.dumps(
        event(id="a-1", data={"path": "/", "host": "é"}), ensure_ascii=False
    )

    found = read_event(text)

    assert found.id == "a-1"
    assert found.key == key_of("shop", "a-1")
    assert (found.application, found.session_id) == ("shop", SESSION)
    assert (found.category, found.name) == ("page interaction", "pageview")
    assert found.timestamp == TIMESTAMP
    assert found.at == 1_609_492_527_243_860
    assert found.data == '{"path": "/", "host": "é"}'
    assert found.source == text.encode()


@given(said=json_values | fields | fields.map(lambda given: event() | given))
@example(said=event(data={"host": "a", "path": "/", "n": 10**400}))
@example(said=event(data={"host": "a", "path": "/", "n": -(2**64)}))
@example(said=event(data={"host": "a", "path": "/", "text": "a\0b"}))
@example(said=event(session_id="\0"))
@example(said=None)
def test_any_value_is_an_event_or_a_failure(said: Any) -> None:
    """Any JSON value is read without an exception; a failure keeps it, and says why."""
    text = json.dumps(said)

    found = read(text)

    if isinstance(found, Failure):
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
        pytest.param({"session_id": REMOVED}, "missing", "/session_id", id="missing"),
        pytest.param({"data": REMOVED}, "missing", "/data", id="no data"),
        pytest.param({"timestamp": REMOVED}, "missing", "/timestamp", id="no time"),
        pytest.param({"session_id": 5}, "wrong_type", "/session_id", id="number"),
        pytest.param({"category": None}, "wrong_type", "/category", id="null"),
        pytest.param({"id": None}, "wrong_type", "/id", id="null id"),
        pytest.param({"name": ""}, "wrong_length", "/name", id="empty"),
        pytest.param({"id": ""}, "wrong_length", "/id", id="empty id"),
        pytest.param({"name": "n" * 201}, "wrong_length", "/name", id="long"),
        pytest.param({"name": "a\0"}, "nul_character", "/name", id="NUL"),
        pytest.param({"id": "\0"}, "nul_character", "/id", id="NUL in id"),
        pytest.param(
            {"timestamp": f"{TIMESTAMP}\0"},
            "nul_character",
            "/timestamp",
            id="NUL in time",
        ),
        pytest.param({"user": 1}, "unknown_field", "/user", id="unknown"),
        pytest.param({"a/b~": 1}, "unknown_field", "/a~1b~0", id="unknown, escaped"),
        pytest.param({"data": []}, "wrong_type", "/data", id="list"),
        pytest.param({"data": "{}"}, "wrong_type", "/data", id="text"),
        pytest.param({"data": {"host": "a"}}, "schema", "/data", id="schema"),
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
            {"timestamp": "2021-01-01_09:15"},
            *("unreadable_timestamp", "/timestamp"),
            id="neither T nor a blank",
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
def test_a_broken_contract_is_named(change: Any, code: str, path: str) -> None:
    """One thing wrong is one error, with its code and where it is."""
    said = {
        name: value for name, value in event(**change).items() if value is not REMOVED
    }

    assert errors_of(said) == [(code, path)]


def test_all_that_is_wrong_is_said_at_once() -> None:
    """Who mends an event need not send it once for each mistake."""
    said = {"session_id": "", "category": 1, "data": 5, "timestamp": "?", "more": 1}

    assert errors_of(said) == [
        ("unknown_field", "/more"),
        ("missing", "/name"),
        ("wrong_length", "/session_id"),
        ("wrong_type", "/category"),
        ("wrong_type", "/data"),
        ("unreadable_timestamp", "/timestamp"),
    ]


@pytest.mark.parametrize("said", [None, True, 5, 1.5, "text", [], [event()]])
def test_what_is_no_object_fails(said: Any) -> None:
    """Any other JSON value is a failed event: of type, not of reading."""
    assert errors_of(said) == [("wrong_type", "")]


def test_a_failure_keeps_what_can_be_asked_for() -> None:
    """It is found by its session and time even where its data cannot be read."""
    text = json.dumps(event(id="a-1", data=0)).replace(
        '"data": 0', '"data": {"n": 1e999}'
    )

    found = read(text)

    assert isinstance(found, Failure)
    assert [(each.code, each.path) for each in found.errors] == [
        ("unreadable", "/data")
    ]
    assert (found.event_id, found.session_id) == ("a-1", SESSION)
    assert (found.category, found.name) == ("page interaction", "pageview")
    assert found.at == 1_609_492_527_243_860


@pytest.mark.parametrize(
    "change", [{"session_id": "\0"}, {"category": 7}, {"name": ""}]
)
def test_a_failure_keeps_no_wrong_name(change: dict[str, Any]) -> None:
    """What no one can ask for, or no database takes, stands in the event alone."""
    found = read(event(**change))

    assert isinstance(found, Failure)
    (name,) = change
    assert getattr(found, name) is None


def test_a_nul_in_data_is_kept() -> None:
    """There it is text inside JSON, which any database takes; names hold none."""
    said = event(data={"host": "a", "path": "/", "text": "a\0b"})

    assert json.loads(read_event(said).data) == said["data"]


def test_data_may_be_so_large_and_no_larger() -> None:
    """The bound counts bytes as they were sent."""
    frame = len('{"host":"a","path":"/","more":""}')
    largest = {"host": "a", "path": "/", "more": "x" * (MAX_DATA_BYTES - frame)}
    compact = msgspec.json.encode(event(data=largest))

    assert isinstance(read(compact), Event)
    assert errors_of(event(data=largest)) == [("data_too_large", "/data")]


def test_ten_thousand_keys_are_read() -> None:
    """Many members are data as any other, as long as they are not too large."""
    many = {f"{number:x}": 0 for number in range(3_000)}
    assert isinstance(read(event(data={"host": "a", "path": "/", **many})), Event)

    more = {f"{number:x}": 0 for number in range(10_000)}
    assert errors_of(event(data=more)) == [("data_too_large", "/data")]
    assert len(errors_of(event() | more)) == MAX_ERRORS


@pytest.mark.parametrize("levels", [200, 300, 900])
@pytest.mark.parametrize("host", ["a", 5])
def test_deep_data_is_an_event_or_a_failure(levels: int, host: object) -> None:
    """However deep a body may go to be JSON, reading its events raises nothing."""
    deep = '{"a":' * levels + "1" + "}" * levels
    text = json.dumps(event(data={"host": host, "path": "/", "a": 0}))
    text = text.replace('"a": 0', f'"a": {deep}')

    (cut_out,) = split_body(text.encode(), JSON, 1)
    found = read(cut_out)

    if host == "a":
        assert isinstance(found, Event)
    else:
        assert isinstance(found, Failure)
        assert found.event == text
        assert {each.code for each in found.errors} <= {"schema", "unreadable"}


# --- time ---------------------------------------------------------------------------


@given(
    moment=st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(2026, 12, 31)),  # noqa: DTZ001
    offset=st.none()
    | st.integers(-1439, 1439).map(
        lambda minutes: timezone(timedelta(minutes=minutes))
    ),
    separator=st.sampled_from("T "),
)
@example(moment=datetime(1, 1, 1), offset=timezone(timedelta(hours=14)), separator=" ")  # noqa: DTZ001
def test_timestamps_of_any_year_and_offset(
    moment: datetime, offset: timezone | None, separator: str
) -> None:
    """From year 1 on, with any offset or none, which is UTC."""
    said = moment.replace(tzinfo=offset)

    found = read_event(event(timestamp=said.isoformat(separator)))

    since = said.replace(tzinfo=offset or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    assert found.at == since // timedelta(microseconds=1)


def test_an_event_may_be_a_little_ahead() -> None:
    """Clocks differ: a minute is allowed, and no microsecond more."""
    edge = datetime.fromtimestamp(NOW_US / US_PER_S, UTC) + timedelta(minutes=1)

    assert isinstance(read(event(timestamp=edge.isoformat())), Event)
    late = edge + timedelta(microseconds=1)
    assert errors_of(event(timestamp=late.isoformat())) == [
        ("future_timestamp", "/timestamp")
    ]


# --- identity -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "one, other, is_same",
    [
        pytest.param('{"a":1,"b":2}', '{ "b" : 2, "a" : 1 }', True, id="order, blanks"),
        pytest.param(
            '{"a":{"c":1,"b":2}}', '{"a":{"b":2,"c":1}}', True, id="inner order"
        ),
        pytest.param('{"a":"\\u00e9"}', '{"a":"é"}', True, id="escapes"),
        pytest.param('{"a":1.0}', '{"a":1.00}', True, id="zeros"),
        pytest.param('{"a":1,"a":2}', '{"a":2}', True, id="member twice: the last"),
        pytest.param('{"a":1}', '{"a":1.0}', False, id="integer and float"),
        pytest.param('{"a":1}', '{"a":true}', False, id="1 and true"),
        pytest.param('{"a":1}', '{"a":"1"}', False, id="number and text"),
        pytest.param('{"a":[1,2]}', '{"a":[2,1]}', False, id="order of a list"),
        pytest.param('{"a":null}', "{}", False, id="null and nothing"),
        pytest.param(
            '{"a":9007199254740993}', '{"a":9007199254740992}', False, id="2⁵³"
        ),
    ],
)
def test_the_content_decides_identity(one: str, other: str, is_same: bool) -> None:  # noqa: FBT001
    """Values count, and not how they are laid out; 1 and 1.0 are two values."""
    named = {"category": "any", "name": "other"}
    text = json.dumps(event(**named, data=0))
    texts = [text.replace('"data": 0', f'"data": {data}') for data in (one, other)]

    first, second = map(read_event, texts)

    assert (first.digest == second.digest) == is_same
    assert (first.id == second.id) == is_same
    assert (first.key == second.key) == is_same


@pytest.mark.parametrize("name", ["session_id", "category", "name", "timestamp"])
def test_every_field_is_content(name: str) -> None:
    """Events that differ in one field are not the same."""
    other = {"timestamp": "2021-01-01 09:15:27.243861"}.get(name, "other")

    assert read_event(event()).digest != read_event(event(**{name: other})).digest


def test_an_id_is_no_content() -> None:
    """The same content under two ids is two events with one digest."""
    one, other = read_event(event(id="1")), read_event(event(id="2"))

    assert one.digest == other.digest
    assert one.key != other.key


def test_applications_never_meet() -> None:
    """The same event of two applications is two, whatever their names are."""
    text = json.dumps(event(id="c")).encode()
    keys = {READER.read(text, name).id for name in ("a", "b")}

    assert keys == {"c"}
    assert key_of("a", "c") != key_of("b", "c")
    assert key_of("a", "bc") != key_of("ab", "c")


def test_a_conflict_keeps_the_event_whole() -> None:
    """It is a failure like any other, and the same again is the same failure."""
    taken = read_event(event(id="a-1"))

    failure = conflict_of(taken)

    assert failure == conflict_of(taken)
    assert [each.code for each in failure.errors] == ["conflict"]
    assert (failure.event_id, failure.session_id) == ("a-1", SESSION)
    assert failure.event.encode() == taken.source


def test_failures_are_told_apart() -> None:
    """By application and content: each is kept once, and none hides another's."""
    text = json.dumps(event(name="")).encode()
    found = [READER.read(text, "shop"), READER.read(text, "shop")]
    others = [READER.read(text, "other"), READER.read(text + b" ", "shop")]

    assert len({each.id for each in found}) == 1
    assert len({each.id for each in (found[0], *others)}) == 3
