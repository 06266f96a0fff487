"""Files of messages: every form, the error of an invalid one, and batches."""

import io
from typing import Final

import pytest

from service.usage import message_file
from service.usage.message_file import (
    BadMessage,
    FileMessage,
    MessageFileError,
    UnreadableMessageFile,
    read_messages,
)

ONE: Final = b'{"id":1,"text":"a"}'
TWO: Final = b'{"id":2,"text":"rent rent"}'
BOTH: Final = [FileMessage(1, "a"), FileMessage(2, "rent rent")]
BOM: Final = b"\xef\xbb\xbf"


def read(content: bytes) -> list[FileMessage]:
    """Return the messages of a file."""
    batches = read_messages(io.BytesIO(content))
    return [message for batch in batches for message in batch]


def read_until_bad(content: bytes) -> tuple[list[FileMessage], MessageFileError]:
    """Return the messages before the error, and the error."""
    messages: list[FileMessage] = []
    try:
        for batch in read_messages(io.BytesIO(content)):
            messages.extend(batch)
    except MessageFileError as error:
        return messages, error
    pytest.fail("the file has no error")


FORMS: Final = {
    "document, surrogate first": rb'{"next":"\ud83d","messages":[%b,%b]}',
    "ndjson": b"%b\n%b\n",
    "ndjson, last line not ended": b"%b\n%b",
    "ndjson, CRLF": b"%b\r\n%b\r\n",
    "ndjson, blank lines": b"\n \n%b\n\n%b\n\n",
    "ndjson, byte order mark": BOM + b"%b\n%b",
    "list": b"[%b,%b]",
    "list over lines": b"\n[\n%b,\n%b\n]\n",
    "document": b'{"messages":[%b,%b]}',
    "document over lines": b'{\n  "messages": [\n%b,\n%b\n]}\n',
    "document, key first": b'{ "messages" :\n[%b,%b]}',
    "document, another key first": b'{"next":null,"messages":[%b,%b]}',
    "document, byte order mark": BOM + b'{"messages":[%b,%b]}',
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_file_is_read(form: bytes) -> None:
    """The content of a file determines its form."""
    assert read(form % (ONE, TWO)) == BOTH


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]", b'{"messages":[]}'], ids=repr)
def test_a_file_may_have_no_messages(content: bytes) -> None:
    """An empty file or document is no error."""
    assert read(content) == []


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'{"id":3}', "object missing required field `text`"),
        (b'{"id":"3","text":""}', "id: expected `int`, got `str`"),
        (b'{"id":3,"text":null}', "text: expected `str`, got `null`"),
        (b'{"id":3,"text":"","timestamp":5}', "timestamp: expected `str`, got `int`"),
        (b"5", "expected `object`, got `int`"),
        (b'{"id":3,', "input data was truncated"),
        (ONE + ONE, "JSON is malformed: trailing characters (byte 20)"),
    ],
    ids=repr,
)
def test_an_invalid_line_is_named(line: bytes, reason: str) -> None:
    """The first invalid line ends the file, after the messages before it."""
    messages, error = read_until_bad(b"\n".join([ONE, TWO, line, ONE]))
    assert messages == BOTH
    assert (type(error), str(error)) == (BadMessage, f"line 3: {reason}")


@pytest.mark.parametrize(
    "content, line",
    [(b"rent?\n", 1), (b'{"id":1\n', 1), (b"\n\n" + ONE + b"\n\n{}", 5)],
    ids=["text", "half a message", "blank lines"],
)
def test_lines_are_numbered_as_in_an_editor(content: bytes, line: int) -> None:
    """Blank lines count, and the first line is number 1."""
    _, error = read_until_bad(content)
    assert str(error).startswith(f"line {line}: ")


@pytest.mark.parametrize(
    "content, reason",
    [
        (
            b'{"messages":[%b,{"text":5}]}',
            "messages[1].text: expected `str`, got `int`",
        ),
        (b"[%b,{}]", "[1]: object missing required field `id`"),
        (b'{"messages":5}', "messages: expected `array`, got `int`"),
        (b"{\n}", "object missing required field `messages`"),
        (b"\n[%b,\n\noops]", "line 4: JSON is malformed: invalid character (byte 23)"),
        (b'{"messages":[\n%b,\n\n', "line 2: input data was truncated"),
    ],
    ids=repr,
)
def test_an_invalid_document_is_explained(content: bytes, reason: str) -> None:
    """No message of an invalid document is read; the error names the place."""
    messages, error = read_until_bad(content.replace(b"%b", ONE))
    assert (messages, type(error), str(error)) == ([], BadMessage, reason)


@pytest.mark.parametrize(
    "content, read_before, line",
    [
        (ONE + b'\n{"id":2,"text":"\xe9"}', BOTH[:1], 2),
        (b"[\n" + ONE + b',\n{"id":2,"text":"\xe9"}]', [], 3),
        (ONE.decode().encode("utf-16"), [], 1),
    ],
    ids=["Latin-1 in a line", "Latin-1 in a document", "UTF-16"],
)
def test_another_encoding_is_unreadable(
    content: bytes, read_before: list[FileMessage], line: int
) -> None:
    """The encoding is never guessed."""
    messages, error = read_until_bad(content)
    assert messages == read_before
    assert (type(error), str(error)) == (
        UnreadableMessageFile,
        f"line {line}: not UTF-8",
    )


def test_lines_are_read_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of any length takes constant memory, and its lines keep their numbers."""
    monkeypatch.setattr(message_file, "READ_SIZE_BYTES", 100)
    line = ONE + b"\n"
    source = io.BytesIO(line * 51)
    sizes, positions = [], []
    for batch in read_messages(source):
        sizes.append(len(batch))
        positions.append(source.tell())
    assert sizes == [1, *[5] * 10]
    assert positions == [len(line) * sum(sizes[: n + 1]) for n in range(11)]
    _, error = read_until_bad(line * 51 + b"{}")
    assert str(error).startswith("line 52: ")


class BrokenSource(io.BytesIO):
    """A file whose disk fails after the first line."""

    def readlines(self, _hint: int | None = -1, /) -> list[bytes]:
        raise OSError(5, "Input/output error")


def test_a_disk_that_fails_is_an_unreadable_file() -> None:
    """The messages before the failure are read."""
    batches = read_messages(BrokenSource(ONE + b"\n" + TWO))
    assert list(next(batches)) == BOTH[:1]
    with pytest.raises(UnreadableMessageFile, match=r"^Input/output error$"):
        next(batches)


@pytest.mark.parametrize("field", ["report_id", "mood"])
def test_deep_nesting_is_the_error_of_its_line(field: str) -> None:
    """The messages before it are read."""
    deep = b"[" * 5_000 + b"]" * 5_000
    bad = b'{"id":2,"text":"a","' + field.encode() + b'":' + deep + b"}"
    messages, error = read_until_bad(ONE + b"\n" + bad + b"\n")
    assert messages == [FileMessage(1, "a")]
    assert str(error).startswith("line 2: ")
