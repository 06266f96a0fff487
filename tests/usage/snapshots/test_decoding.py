"""A body decoded in chunks, upon the one before, gives what it gives as a whole."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.upstream import lenient_json
from service.usage.pricing.plans import TEXT_RULES
from service.usage.snapshots import body_hashes, decoding
from service.usage.snapshots.build import ReportPrice, ResolvedReports
from service.usage.snapshots.decoding import read_messages
from service.usage.snapshots.formats import CSV, JSON
from service.usage.snapshots.logged_prices import PriceLogging
from service.usage.snapshots.messages import MAX_INVALID_IDS_LOGGED, Messages
from service.usage.snapshots.sharing import pack, unpack
from service.usage.snapshots.store import SnapshotStore
from service.web.http_cache.encodings import digest_of
from tests.reference import body_of, message, priced_of, read

FEW_BYTES: Final = 100
"""The size of a chunk: one message, or two short ones."""


@pytest.fixture(autouse=True, scope="module")
def _chunks_are_small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "CHUNK_BYTES", FEW_BYTES)
        patch.setattr(body_hashes, "BLOCK_BYTES", FEW_BYTES)
        yield


def read_alone(body: bytes) -> Messages:
    """Decode a body at once, without chunks and without the previous messages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "CHUNK_BYTES", len(body))
        return read_messages(body)


def outcome_of(messages: Messages) -> list[Any]:
    """Return all columns but the checkpoints, in a form that can be compared."""
    values: list[Any] = list(messages._replace(checkpoints=()))
    return [each.tolist() if hasattr(each, "tolist") else each for each in values]


def read_or_fail(body: bytes, before: Messages | None) -> list[Any] | tuple[Any, ...]:
    """Return the columns of a body, or the error of decoding it."""
    try:
        read_now = read_messages(body, before)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        return type(error), str(error)
    assert len(read_now.ids) == len(read_now.report_of) == len(read_now.timestamps)
    return outcome_of(read_now)


def read_alone_or_fail(body: bytes) -> list[Any] | tuple[Any, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "CHUNK_BYTES", len(body))
        return read_or_fail(body, None)


# Generated bodies.

WHITE_SPACE: Final = st.sampled_from(["", "", "", " ", "\n", "\r\n\t "])
TEXTS: Final = (
    *("", "Rent?", "rent " * 20, '},{"id":1', '{"', '"},{"', "}, {", "]}", "\\", "é🏠"),
    '"messages":[',
)
RAW_TEXTS: Final = st.sampled_from(
    [*(msgspec.json.encode(each).decode() for each in TEXTS * 2), '"\\ud800"', '"},{"']
)
TIMES: Final = st.sampled_from(
    [*["2024-04-29T02:08:29.375Z"] * 3, "2024-05-01", "2024-05-01T00:00:00.0000001Z"]
)
RAW_REPORT_IDS: Final = st.sampled_from(
    [
        *('"7"', "7", "8", "true", "1.5", "null", '"x/9"', '""', "1e400"),
        *('{"id":1}', '[{"id":1},{"id":2}]', '[{"a":1}, {"b":[]}]'),
    ]
)
PLAIN: Final = '{"id":1,"text":"","timestamp":"2024-04-29"}'
HEADS: Final = st.sampled_from(
    [
        *['{"messages":['] * 12,
        ' { "messages" : [ ',
        '{"total":2,"messages":[',
        '{"x":{"messages":[]},"messages":[',
        f'{{"messages":[{PLAIN}],"messages":[',
        '{"x":"\\"messages\\":[","messages":[',
        "[",
    ]
)
TAILS: Final = st.sampled_from(
    [
        *["]}"] * 12,
        ' ] , "more" : [{"a":1},{"b":2}] }',
        f'],"old":[{PLAIN},{PLAIN}]}}',
        '],"messages":[]}',
        f'],"messages":[{PLAIN}]}}',
        *(",]}", "]", "}", "]}x", "", '],"x":"\\ud800"}'),
    ]
)


@st.composite
def raw_messages(draw: st.DrawFn) -> str:
    """A message as upstream may write it, its members in any order."""
    members = [
        f'"id":{draw(WHITE_SPACE)}{draw(st.integers(-2, 9))}',
        f'"text":{draw(RAW_TEXTS)}',
        f'"timestamp":"{draw(TIMES)}"',
    ]
    if draw(st.integers(0, 3)) == 0:
        members.append(f'"report_id":{draw(RAW_REPORT_IDS)}')
    comma = draw(WHITE_SPACE) + "," + draw(WHITE_SPACE)
    return "{" + draw(WHITE_SPACE) + comma.join(draw(st.permutations(members))) + "}"


Items = list[str]


@st.composite
def changed(draw: st.DrawFn, items: Items) -> Items:
    """Append, correct, remove, reorder or duplicate messages, or change nothing."""
    at = draw(st.integers(0, len(items)))
    new = draw(st.lists(raw_messages(), max_size=4))
    return draw(
        st.sampled_from(
            [
                *([*items, *new], [*items[:at], *new, *items[at:]]),
                *(
                    [*items[:at], *new, *items[at + 1 :]],
                    [*items[:at], *items[at + 2 :]],
                ),
                *([*items[at:], *items[:at]], [*items, *items[:at]], items),
            ]
        )
    )


@st.composite
def histories(draw: st.DrawFn) -> list[bytes]:
    """Some bodies, each of which has changed from the one before."""
    head, comma, tail = draw(HEADS), draw(WHITE_SPACE) + "," + draw(WHITE_SPACE), "]}"
    items = draw(
        st.lists(raw_messages(), min_size=draw(st.sampled_from([0, 6, 6])), max_size=12)
    )
    bodies = []
    for _ in range(draw(st.integers(1, 4))):
        bodies.append((head + comma.join(items) + tail).encode())
        items = draw(changed(items))
        if draw(st.booleans()):
            tail = draw(TAILS)
        if draw(st.integers(0, 9)) == 0:
            comma = draw(WHITE_SPACE) + ","
    return bodies


@st.composite
def damaged(draw: st.DrawFn, body: bytes) -> bytes:
    """A body that was cut off, or has another byte somewhere."""
    at = draw(st.integers(0, len(body)))
    other = draw(st.sampled_from([b"", b" ", b'"', b"{", b"}", b"]", b",", b"\x0b"]))
    return draw(st.sampled_from([body[:at], body[:at] + other + body[at + 1 :]]))


@given(data=st.data(), bodies=histories())
def test_decoding_upon_the_last_body_equals_decoding_alone(
    data: st.DataObject, bodies: list[bytes]
) -> None:
    """Columns, digests and errors are equal, whatever has changed."""
    before = None
    for body in bodies:
        for each in (body, data.draw(damaged(body))):
            expected = read_alone_or_fail(each)
            assert read_or_fail(each, None) == expected
            assert read_or_fail(each, before) == expected
        if isinstance(read_alone_or_fail(body), list):
            before = read_messages(body, before)


# What is taken over.

MANY: Final = [message(n, f"Rent of {n}?", report_id=n % 3) for n in range(40)]


def count_decoded(messages: list[dict[str, Any]], before: Messages) -> int:
    read_now = read_messages(body_of(messages), before)
    assert outcome_of(read_now) == outcome_of(read_alone(body_of(messages)))
    assert read_now.sent is not None
    assert before.sent is not None
    return len(messages) - read_now.sent.count_shared(before.sent)


def test_only_the_rest_after_the_first_change_is_decoded() -> None:
    """The messages before it are the same objects, but for those of its own chunk."""
    before = read(MANY)
    corrected = [*MANY[:30], MANY[30] | {"text": "No rent"}, *MANY[31:]]

    assert count_decoded([*MANY, message(99)], before) <= 3
    assert 10 <= count_decoded(corrected, before) <= 12
    assert count_decoded([message(99), *MANY], before) == 41


def test_an_equal_body_is_not_decoded() -> None:
    """The previous messages are returned."""
    before = read(MANY)
    assert read_messages(body_of(MANY), before) is before


def test_adopted_columns_have_nothing_to_take_over() -> None:
    """Without the texts of another process, the whole body is decoded."""
    adopted = unpack(pack(priced_of(MANY))).messages
    for sent in (MANY, [*MANY, message(99)]):
        body = body_of(sent)
        assert outcome_of(read_messages(body, adopted)) == outcome_of(read_alone(body))


def test_many_small_additions_are_taken_over() -> None:
    """Each body adds one message, and checkpoints do not accumulate."""
    before = read(MANY[:1])
    for count in range(2, 41):
        before = read_messages(body_of(MANY[:count]), before)

    assert outcome_of(before) == outcome_of(read_alone(body_of(MANY)))
    assert len(before.checkpoints) < len(body_of(MANY)) / FEW_BYTES


def test_one_surrogate_makes_one_chunk_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow decoder sees the chunk that needs it, not the whole period."""
    body = body_of([*MANY, message(99, "SURROGATE"), *MANY])
    body = body.replace(b"SURROGATE", b"\\ud83d")
    expected, decoded = outcome_of(read_alone(body)), []
    decode_any = lenient_json._decode_any

    def count(view: memoryview) -> Any:
        decoded.append(len(view))
        return decode_any(view)

    monkeypatch.setattr(lenient_json, "_decode_any", count)
    assert outcome_of(read_messages(body)) == expected
    assert len(decoded) == 1
    assert decoded[0] < 4 * FEW_BYTES


def test_first_invalid_ids_are_those_of_the_whole_list() -> None:
    """A correction of the first messages moves the bound of what is logged."""
    count = MAX_INVALID_IDS_LOGGED + 20
    sent = [message(row, report_id=[row]) for row in range(count)]
    before = read(sent)
    for changed_sent in (sent[:50], [*sent[:40], *sent[60:]], [*sent, message(1)]):
        body = body_of(changed_sent)
        now = read_messages(body, before)
        assert outcome_of(now) == outcome_of(read_alone(body))


# Snapshots upon snapshots.

DEFAULT: Final = TEXT_RULES.id
PRICES: Final = st.none() | st.builds(
    ReportPrice, st.sampled_from(["Lease", "Tenants"]), st.sampled_from([0, 100, 6100])
)


def build_in(
    store: SnapshotStore, number: int, body: bytes, prices: list[ReportPrice | None]
) -> list[Any]:
    """Load and build a snapshot upon the one before; return its answers."""
    loaded = store.load(number, body, number - 1)
    keys = len(loaded.report_keys)
    reports = ResolvedReports((prices * keys)[:keys], ())
    logging = PriceLogging(f"refresh {number}", 0)
    priced = store.build(number, number - 1, reports, logging, plan=DEFAULT)
    answers = [bytes(store.answer(number, DEFAULT, each)) for each in (JSON, CSV)]
    assert priced.answer_digest == digest_of(answers[0])
    ids = {each["message_id"] for each in msgspec.json.decode(answers[0])["usage"]}
    return [
        *answers,
        priced.summary,
        loaded._replace(shrink=None),
        store.daily(number, DEFAULT, "Asia/Tokyo"),
        store.by_report(number, DEFAULT),
        *(store.explain(number, DEFAULT, each).body for each in sorted(ids)),
    ]


@given(bodies=histories(), data=st.data())
def test_snapshot_upon_the_last_one_equals_one_from_nothing(
    bodies: list[bytes], data: st.DataObject
) -> None:
    """No answer shows what was taken over, also where reports change."""
    store, number = SnapshotStore(), 0
    for body in bodies:
        if isinstance(read_alone_or_fail(body), list):
            prices = data.draw(st.lists(PRICES, min_size=1, max_size=4))
            number += 1
            expected = build_in(SnapshotStore(), 1, body, prices)
            assert build_in(store, number, body, prices) == expected
