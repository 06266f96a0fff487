"""Pricing files without a server: what is read, written, refused, and how streamed."""

import io
import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from service.usage import files
from service.usage.files import (
    CSV,
    EXPLAINED_NDJSON,
    NDJSON,
    BadMessage,
    FileError,
    Output,
    Tally,
    UnreadableFile,
    rate_file,
)
from service.usage.pricing.plans import TEXT_RULES, TOKEN_ESTIMATE, Plan

TIMESTAMP: Final = "2024-04-29T03:25:03.613Z"
ONE: Final = b'{"id":1,"text":"a"}'
TWO: Final = b'{"id":2,"text":"rent rent"}'
PRICED: Final = (
    b'{"message_id":1,"credits_used":2.0}\n{"message_id":2,"credits_used":1.85}\n'
)


def rate(
    given: bytes, output: Output = NDJSON, plan: Plan = TEXT_RULES
) -> tuple[bytes, Tally]:
    """What a file's content is priced to, and the tally."""
    sink = io.BytesIO()
    tally = rate_file(io.BytesIO(given), sink, plan, output)
    return sink.getvalue(), tally


def rate_until_bad(given: bytes) -> tuple[bytes, FileError]:
    """What is written before the error, and the error."""
    sink = io.BytesIO()
    with pytest.raises(FileError) as raised:
        rate_file(io.BytesIO(given), sink, TEXT_RULES, NDJSON)
    return sink.getvalue(), raised.value


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(ONE + b"\n" + TWO + b"\n", id="ndjson"),
        pytest.param(ONE + b"\n" + TWO, id="ndjson, last line not ended"),
        pytest.param(ONE + b"\r\n" + TWO + b"\r\n", id="ndjson, CRLF"),
        pytest.param(
            b"\n \n" + ONE + b"\n\n" + TWO + b"\n\n", id="ndjson, blank lines"
        ),
        pytest.param(b"\xef\xbb\xbf" + ONE + b"\n" + TWO, id="ndjson, byte order mark"),
        pytest.param(b"[" + ONE + b"," + TWO + b"]", id="list"),
        pytest.param(b"\n[\n" + ONE + b",\n" + TWO + b"\n]\n", id="list over lines"),
        pytest.param(b'{"messages":[' + ONE + b"," + TWO + b"]}", id="document"),
        pytest.param(
            b'{\n  "messages": [\n' + ONE + b",\n" + TWO + b"\n]}\n",
            id="document over lines",
        ),
        pytest.param(
            b'{ "messages" :\n[' + ONE + b"," + TWO + b"]}", id="document, key first"
        ),
        pytest.param(
            b'{"next":null,"messages":[' + ONE + b"," + TWO + b"]}",
            id="document, another key first",
        ),
        pytest.param(
            b'\xef\xbb\xbf{"messages":[' + ONE + b"," + TWO + b"]}",
            id="document, byte order mark",
        ),
    ],
)
def test_every_form_of_file(given: bytes) -> None:
    """The form of a file is told by its content, and changes no price."""
    assert rate(given) == (PRICED, Tally(messages=2, hundredths=385))


@pytest.mark.parametrize("given", [b"", b"\n\n", b"[]", b'{"messages":[]}'], ids=repr)
def test_a_file_without_messages(given: bytes) -> None:
    """No messages are no lines, and no error."""
    assert rate(given) == (b"", Tally())


def test_timestamps_are_verbatim() -> None:
    """A timestamp is passed on as it is, even one that is none."""
    written, _ = rate(b'{"id":1,"text":"a","timestamp":"soon \xe2\x80\xa6"}')
    assert json.loads(written) == {
        "message_id": 1,
        "timestamp": "soon …",
        "credits_used": 2.0,
    }


def test_usable_report_ids_are_counted_not_asked_for() -> None:
    """A message that names a report costs what its text costs, and is counted."""
    ids: list[Any] = [7, "7", "", None, True, 1.5, {}, []]
    lines = [json.dumps({"id": 1, "text": "a", "report_id": each}) for each in ids]
    written, tally = rate("\n".join(lines).encode())
    assert written == b'{"message_id":1,"credits_used":2.0}\n' * len(ids)
    assert tally == Tally(messages=8, naming_reports=2, hundredths=1600)
    assert tally.summary() == (
        "messages: 8; credits: 16.0; naming a report, yet priced by text: 2"
    )


def test_the_plan_decides_the_price() -> None:
    """Another plan prices the same file its own way."""
    given = b'{"id":1,"text":"What is the rent?"}'
    assert rate(given, plan=TOKEN_ESTIMATE)[0] == (
        b'{"message_id":1,"credits_used":2.0}\n'
    )


def test_explained_prices() -> None:
    """Each line has the plan's steps, which lead to the price."""
    written, _ = rate(ONE + b"\n" + TWO, EXPLAINED_NDJSON)
    first, second = map(json.loads, written.splitlines())
    assert [step["step"] for step in first["steps"]] == [
        step.name for step in TEXT_RULES.steps
    ]
    assert second["steps"] == [
        {"step": "base", "credits": 1.0, "total": 1.0},
        {"step": "characters", "credits": 0.45, "total": 1.45},
        {"step": "words", "credits": 0.4, "total": 1.85},
        {"step": "third_vowels", "credits": 0.0, "total": 1.85},
        {"step": "length_penalty", "credits": 0.0, "total": 1.85},
        {"step": "unique_words", "credits": 0.0, "total": 1.85},
        {"step": "palindrome", "credits": 0.0, "total": 1.85},
    ]
    assert second["credits_used"] == 1.85


def test_csv() -> None:
    """CSV has the columns of the service's own, and quotes where it must."""
    given = b'{"id":1,"text":"a","timestamp":"%b"}\n{"id":2,"text":"","timestamp":","}'
    written, _ = rate(given % TIMESTAMP.encode() + b"\n" + TWO, CSV)
    assert written.decode().split("\r\n") == [
        "message_id,timestamp,report_name,credits_used",
        f"1,{TIMESTAMP},,2.0",
        '2,",",,1.0',
        "2,,,1.85",
        "",
    ]


def test_csv_without_messages() -> None:
    """An empty table still has its header."""
    assert rate(b"", CSV)[0] == b"message_id,timestamp,report_name,credits_used\r\n"


@pytest.mark.parametrize(
    "bad, reason",
    [
        pytest.param(
            b'{"id":3}', "line 3: object missing required field `text`", id="no text"
        ),
        pytest.param(
            b'{"text":""}', "line 3: object missing required field `id`", id="no id"
        ),
        pytest.param(
            b'{"id":"3","text":""}',
            "line 3: id: expected `int`, got `str`",
            id="id is text",
        ),
        pytest.param(
            b'{"id":3,"text":null}',
            "line 3: text: expected `str`, got `null`",
            id="text is null",
        ),
        pytest.param(
            b'{"id":3,"text":"","timestamp":5}',
            "line 3: timestamp: expected `str`, got `int`",
            id="timestamp is a number",
        ),
        pytest.param(b"5", "line 3: expected `object`, got `int`", id="no object"),
        pytest.param(
            b'{"id":3,', "line 3: input data was truncated", id="half a message"
        ),
        pytest.param(
            ONE + ONE,
            "line 3: JSON is malformed: trailing characters (byte 20)",
            id="two messages",
        ),
    ],
)
def test_a_bad_line_is_named(bad: bytes, reason: str) -> None:
    """The first bad line ends the run with its number; those before it are written."""
    written, error = rate_until_bad(b"\n".join([ONE, TWO, bad, ONE]))
    assert (written, type(error), str(error)) == (PRICED, BadMessage, reason)


def test_blank_lines_count() -> None:
    """A line's number is what an editor shows."""
    _, error = rate_until_bad(b"\n\n" + ONE + b"\n\n{}")
    assert str(error) == "line 5: object missing required field `id`"


@pytest.mark.parametrize("first", [b"rent?", b'{"id":1', b"{}"], ids=repr)
def test_a_bad_first_line_is_named(first: bytes) -> None:
    """A file that begins with no message and no document fails at its first line."""
    written, error = rate_until_bad(first + b"\n" + ONE)
    assert written == b""
    assert str(error).startswith("line 1: ")


def test_lines_beyond_one_read_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading in pieces does not shift the numbers."""
    monkeypatch.setattr(files, "READ_SIZE_BYTES", 2 * len(ONE))
    written, error = rate_until_bad((ONE + b"\n") * 9 + b"{}")
    assert written.count(b"\n") == 9
    assert str(error) == "line 10: object missing required field `id`"


@pytest.mark.parametrize(
    "given, reason",
    [
        pytest.param(
            b'{"messages":[\n' + ONE + b',\n{"id":2,"text":5}]}',
            "messages[1].text: expected `str`, got `int`",
            id="field in a document",
        ),
        pytest.param(
            b"[" + ONE + b",{}]",
            "[1]: object missing required field `id`",
            id="field in a list",
        ),
        pytest.param(
            b'{"messages":5}', "messages: expected `array`, got `int`", id="no list"
        ),
        pytest.param(
            b"{\n}", "object missing required field `messages`", id="no messages"
        ),
        pytest.param(
            b"\n[" + ONE + b",\n\n" + b"oops]",
            "line 4: JSON is malformed: invalid character (byte 23)",
            id="malformed",
        ),
        pytest.param(
            b'{"messages":[\n' + ONE + b",\n\n",
            "line 2: input data was truncated",
            id="cut off",
        ),
    ],
)
def test_a_bad_document_is_explained(given: bytes, reason: str) -> None:
    """Of a document that breaks the contract nothing is priced, and the place named."""
    written, error = rate_until_bad(given)
    assert (written, type(error), str(error)) == (b"", BadMessage, reason)


@pytest.mark.parametrize(
    "given, before, reason",
    [
        pytest.param(
            ONE + b'\n{"id":2,"text":"\xe9"}',
            b'{"message_id":1,"credits_used":2.0}\n',
            "line 2: not UTF-8",
            id="Latin-1 in a line",
        ),
        pytest.param(
            b"[\n" + ONE + b',\n{"id":2,"text":"\xe9"}]',
            b"",
            "line 3: not UTF-8",
            id="Latin-1 in a document",
        ),
        pytest.param(
            ONE.decode().encode("utf-16"), b"", "line 1: not UTF-8", id="UTF-16"
        ),
    ],
)
def test_a_file_that_is_not_utf8(given: bytes, before: bytes, reason: str) -> None:
    """Another encoding is not guessed at: it is an unreadable file."""
    written, error = rate_until_bad(given)
    assert (written, type(error), str(error)) == (before, UnreadableFile, reason)


class CountedSource(io.BytesIO):
    """A file that notes, at each read, how much had been written by then."""

    def __init__(self, content: bytes, written: Callable[[], int]) -> None:
        super().__init__(content)
        self._written = written
        self.written_at_reads: list[int] = []

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        self.written_at_reads.append(self._written())
        return super().readlines(hint)


def test_lines_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are written before the next are read, so that no file is too long."""
    monkeypatch.setattr(files, "READ_SIZE_BYTES", 100)
    sink = io.BytesIO()
    source = CountedSource((ONE + b"\n") * 51, sink.tell)
    tally = rate_file(source, sink, TEXT_RULES, NDJSON)
    line = len(b'{"message_id":1,"credits_used":2.0}\n')
    assert source.written_at_reads == [line * (1 + 5 * n) for n in range(11)]
    assert tally == Tally(messages=51, hundredths=51 * 200)


class BrokenSource(io.BytesIO):
    """A file whose disk fails after the first line."""

    def readlines(self, _hint: int | None = -1, /) -> list[bytes]:
        raise OSError(5, "Input/output error")


def test_a_disk_that_fails() -> None:
    """A failure to read is of the file, and what was read before is priced."""
    sink = io.BytesIO()
    with pytest.raises(UnreadableFile, match=r"^Input/output error$"):
        rate_file(BrokenSource(ONE + b"\n" + TWO), sink, TEXT_RULES, NDJSON)
    assert sink.getvalue() == b'{"message_id":1,"credits_used":2.0}\n'
