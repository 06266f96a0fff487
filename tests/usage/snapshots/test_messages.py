"""Messages are decoded and checked, in upstream's order, with their report ids."""

import json
import mmap
from itertools import product
from typing import Any, Final

import msgspec
import pytest

from service.usage.snapshots.decoding import read_messages
from service.usage.snapshots.messages import (
    MAX_INVALID_IDS_LOGGED,
    MAX_KEY_CHARACTERS,
    NO_REPORT,
    report_key,
)
from tests.reference import body_of, items_of, message, priced_of, read

LARGEST: Final = 2**63 - 1
MESSAGE: Final = message(1000, "Rent?")


def written(messages: str) -> bytes:
    """Return a body whose messages are written in JSON like this."""
    return f'{{"messages": [{messages}]}}'.encode()


def with_id(message_id: str) -> bytes:
    return written(f'{{"id": {message_id}, "text": "", "timestamp": "2024-04-29"}}')


def with_report_id(report_id: str) -> bytes:
    fields = '"id": 1, "text": "", "timestamp": "2024-04-29"'
    return written(f'{{{fields}, "report_id": {report_id}}}')


# Messages.


def test_messages_are_read_in_upstreams_order() -> None:
    """Nothing is dropped, merged or moved, and timestamps stay verbatim."""
    sent = [
        message(2, "b", timestamp="2024-04-30T00:00:00+02:00"),
        message(1, "a", timestamp="2024-04-29"),
        message(2, "b", timestamp="2024-04-30T00:00:00+02:00"),
    ]
    messages = read(sent)
    assert messages.ids.tolist() == [2, 1, 2]
    assert messages.sent is not None
    assert [each.text for each in messages.sent] == ["b", "a", "b"]
    assert messages.timestamps == [each["timestamp"] for each in sent]
    first, second, third = messages.instants.tolist()
    assert second < first == third


def test_unknown_fields_are_ignored() -> None:
    """Upstream may add fields to messages and to the body."""
    plain = read([MESSAGE])
    body = {"messages": [{**MESSAGE, "user": {"id": [None]}}], "more": {"x": 1}}
    extended = read_messages(msgspec.json.encode(body))
    assert extended.sent == plain.sent
    assert extended.ids.tolist() == plain.ids.tolist()


@pytest.mark.parametrize("message_id", [0, -1, LARGEST, -LARGEST - 1])
def test_id_of_64_bits_is_read(message_id: int) -> None:
    """Every id that 64 bits hold is answered as it came."""
    assert items_of(priced_of([message(message_id)]))[0]["message_id"] == message_id


@pytest.mark.parametrize("field", MESSAGE)
def test_message_without_a_mandatory_field_is_refused(field: str) -> None:
    """A message without id, text or timestamp breaks the contract."""
    rest = {name: value for name, value in MESSAGE.items() if name != field}
    with pytest.raises(msgspec.ValidationError, match=f"missing.*`{field}`"):
        read([MESSAGE, rest])


@pytest.mark.parametrize(
    "field, value",
    [
        *product(["id"], [None, True, 1.0, "1000", [], {}]),
        *product(["text"], [None, True, 1, [], {}]),
        *product(["timestamp"], [None, False, 1714356509, [], {}]),
    ],
)
def test_message_with_a_wrong_type_is_refused(field: str, value: object) -> None:
    """A mandatory field of another type breaks the contract, and is named."""
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.messages\[1\]\.{field}"):
        read([MESSAGE, {**MESSAGE, field: value}])


def test_unreadable_timestamp_breaks_the_contract() -> None:
    """One message without a readable date refuses the period, and is quoted."""
    with pytest.raises(msgspec.ValidationError, match="'2024-02-30T00:00:00Z'"):
        read([message(1), message(2, timestamp="2024-02-30T00:00:00Z")])


@pytest.mark.parametrize(
    "opening, closing",
    [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")],
    ids=["lists", "objects", "both"],
)
def test_deep_nesting_raises_an_error_that_can_be_caught(
    opening: str, closing: str
) -> None:
    """A report id nested without end is upstream's error, not a crash."""
    with pytest.raises(RecursionError):
        read_messages(with_report_id(opening * 100_000 + "1" + closing * 100_000))


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", with_id("1")[:-1], with_id("1") + b"x"]
    + [with_report_id(each) for each in ('"\\ud800', "NaN", "01")],
    ids=[
        *("nothing", "HTML", "cut off", "more"),
        *("surrogate, cut off", "NaN", "leading zero"),
    ],
)
def test_body_that_is_no_json_cannot_be_decoded(body: bytes) -> None:
    """A body that cannot be parsed is not the contract broken, but malformed."""
    with pytest.raises(msgspec.DecodeError) as raised:
        read_messages(body)
    assert not isinstance(raised.value, msgspec.ValidationError)


@pytest.mark.parametrize(
    "body",
    [
        *(b"null", b"[]", b"{}", b'{"messages": null}', b'{"messages": {}}'),
        *map(with_id, ("1.0", "1e3", str(LARGEST + 1), str(-LARGEST - 2), "9" * 5000)),
    ],
    ids=lambda each: each[:40].decode(),
)
def test_body_of_another_shape_breaks_the_contract(body: bytes) -> None:
    """Another shape is no empty period, and ids are integers of 64 bits."""
    with pytest.raises(msgspec.ValidationError):
        read_messages(body)


# Digests.


def test_digest_names_the_body() -> None:
    """Equal bodies have equal digests, in whatever memory they are."""
    body = body_of([MESSAGE])
    mapped = mmap.mmap(-1, len(body))
    mapped.write(body)
    digests = {read_messages(each).digest for each in (body, bytearray(body), mapped)}
    assert len(digests) == 1
    assert len(digests.pop()) == 64
    assert read_messages(body + b" ").digest != read_messages(body).digest


# Report ids.


@pytest.mark.parametrize(
    "report_id, key",
    [
        *(("-7", "-7"), (str(2**64), str(2**64)), ('"7"', "7"), ('"07"', "07")),
        *(('" "', " "), ('"../x?y#z"', "../x?y#z"), ('"\\u0000"', "\0")),
        *(('"..."', "..."), ('"%2e%2E"', "%2e%2E")),
    ],
    ids=repr,
)
def test_usable_report_id_is_resolved(report_id: str, key: str) -> None:
    """Integers and non-empty strings are usable, whatever they hold."""
    messages = read_messages(with_report_id(report_id))
    assert (messages.report_keys, messages.invalid_ids) == ([key], [])


@pytest.mark.parametrize(
    "report_id",
    [
        *("null", "true", "false", "7.0", "1e2", '""', "[]", "[7]", "{}", '{"id": 7}'),
        *('"\\ud800"', '"7\\udfff"', "1e400", "-1e400", "[1e400]", '"."', '".."'),
        *('"\\u002e"', '".\\u002E"'),
    ],
)
def test_unusable_report_id_is_never_resolved(report_id: str) -> None:
    """Other JSON values are no ids, and neither are strings that no URL keeps."""
    messages = read_messages(with_report_id(report_id))
    assert messages.report_keys == []
    assert messages.invalid_ids == [json.loads(report_id)]
    assert messages.report_of.tolist() == [NO_REPORT]


def test_each_report_is_resolved_once() -> None:
    """7 and "7" are one report, true is not 1, and first use gives the order."""
    ids: list[Any] = ["b", 7, "7", "b", True, 1.0, None, 1, 7]
    messages = read(message(row, report_id=each) for row, each in enumerate(ids))
    assert messages.report_keys == ["b", "7", "1"]
    assert messages.report_of.tolist() == [0, 1, 1, 0, *[NO_REPORT] * 3, 2, 1]
    assert messages.invalid_ids == [True, 1.0, None]


def test_only_the_first_invalid_ids_are_kept() -> None:
    """A million unusable ids would only fill the log."""
    count = MAX_INVALID_IDS_LOGGED + 5
    messages = read(message(row, report_id=[row]) for row in range(count))
    assert messages.invalid_ids == [[row] for row in range(MAX_INVALID_IDS_LOGGED)]


def test_id_longer_than_a_url_is_not_usable() -> None:
    """Any server would refuse it, and one such id would fail the whole period."""
    longest = "x" * MAX_KEY_CHARACTERS
    assert report_key(longest) == longest
    assert report_key(longest + "x") is None
