"""An independent reader of HTTP/1.1 answers, by RFC 9110, 9111 and 9112.

It knows nothing of the service: it gets the bytes that a connection has sent, and the
methods of the requests, and names every rule that the bytes break.
"""

import re
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
QUOTED: Final = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_STATUS_LINE: Final = re.compile(r"HTTP/1\.[01] ([1-5]\d\d) [\t -~\x80-\xff]*")
_FIELD_LINE: Final = re.compile(rf"({TOKEN}):[ \t]*([!-~\x80-\xff](?:.*\S)?)?[ \t]*")
_DATE: Final = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|"
    r"Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT"
)
_ENTITY_TAG: Final = re.compile(r'(?:W/)?"[!#-~\x80-\xff]*"')
_TOKENS: Final = re.compile(rf"{TOKEN}(?:[ \t]*,[ \t]*{TOKEN})*")
_DIRECTIVE: Final = rf"{TOKEN}(?:=(?:{TOKEN}|{QUOTED}))?"
_DIRECTIVES: Final = re.compile(rf"{_DIRECTIVE}(?:[ \t]*,[ \t]*{_DIRECTIVE})*")
_MEDIA_TYPE: Final = re.compile(
    rf"{TOKEN}/{TOKEN}(?:[ \t]*;[ \t]*{TOKEN}=(?:{TOKEN}|{QUOTED}))*"
)
_CHALLENGE: Final = re.compile(rf"{TOKEN}(?: .+)?")
_NUMBER: Final = re.compile(r"\d+")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]+)(?:;.*)?")

_SYNTAX: Final = {
    "age": _NUMBER,
    "allow": _TOKENS,
    "cache-control": _DIRECTIVES,
    "connection": _TOKENS,
    "content-encoding": _TOKENS,
    "content-length": _NUMBER,
    "content-type": _MEDIA_TYPE,
    "date": _DATE,
    "etag": _ENTITY_TAG,
    "expires": _DATE,
    "last-modified": _DATE,
    "retry-after": re.compile(rf"\d+|{_DATE.pattern}"),
    "transfer-encoding": _TOKENS,
    "vary": re.compile(rf"\*|{_TOKENS.pattern}"),
    "www-authenticate": _CHALLENGE,
}
_SINGLE: Final = frozenset(_SYNTAX) - {
    *("allow", "cache-control", "connection", "content-encoding"),
    *("transfer-encoding", "vary", "www-authenticate"),
}
_NEEDED: Final = {401: "www-authenticate", 405: "allow", 426: "upgrade"}


class Broken(Exception):
    """The bytes are no HTTP answer, so nothing after them can be read."""


class Received(NamedTuple):
    """One answer; `headers` keeps the order, with names in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Return the values of a header, one for each line."""
        return [value for key, value in self.headers if key == name]

    def value(self, name: str) -> str:
        """Return the values of a header as one."""
        return ", ".join(self.values(name))


def read_answers(raw: bytes, methods: Sequence[str]) -> list[Received]:
    """Return the final answers in `raw`; raises `Broken`.

    `methods` are those of the requests, in order: an answer to HEAD has no body. An
    answer beyond them, such as one to bytes that are no request, has its body.
    """
    answers: list[Received] = []
    while raw:
        head, end, rest = raw.partition(b"\r\n\r\n")
        if not end:
            raise Broken(f"a head that does not end: {head[:80]!r}")
        status, headers = _read_head(head.decode("latin-1"))
        if status < 200:
            raw = rest
            continue
        answer = Received(status, headers, b"")
        method = methods[len(answers)] if len(answers) < len(methods) else ""
        body, raw = _read_body(answer, rest, method)
        answers.append(answer._replace(body=body))
    return answers


def faults_of(answer: Received, method: str = "GET") -> list[str]:
    """Return the rules that an answer breaks, each in a few words."""
    return [
        *_field_faults(answer),
        *_status_faults(answer),
        *_body_faults(answer, method),
    ]


def _read_head(head: str) -> tuple[int, list[tuple[str, str]]]:
    line, *lines = head.split("\r\n")
    status = _STATUS_LINE.fullmatch(line)
    if not status:
        raise Broken(f"RFC 9112 §4: status line {line!r}")
    headers = []
    for each in lines:
        field = _FIELD_LINE.fullmatch(each)
        if not field:
            raise Broken(f"RFC 9112 §5: field line {each!r}")
        headers.append((field[1].lower(), field[2] or ""))
    return int(status[1]), headers


def _read_body(answer: Received, rest: bytes, method: str) -> tuple[bytes, bytes]:
    """Return the body and what follows it (RFC 9112 §6.3)."""
    if method == "HEAD" or answer.status in {204, 304}:
        return b"", rest
    if "chunked" in answer.value("transfer-encoding").lower():
        return _read_chunks(rest)
    lengths = set(answer.values("content-length"))
    if not lengths:
        return rest, b""
    if len(lengths) > 1 or not _NUMBER.fullmatch(min(lengths)):
        raise Broken(f"RFC 9112 §6.3: Content-Length {sorted(lengths)}")
    length = int(lengths.pop())
    if len(rest) < length:
        raise Broken(f"RFC 9112 §8: {len(rest)} of {length} bytes")
    return rest[:length], rest[length:]


def _read_chunks(rest: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, end, rest = rest.partition(b"\r\n")
        size = _CHUNK_SIZE.fullmatch(line)
        if not size or not end:
            raise Broken(f"RFC 9112 §7.1: chunk {line[:40]!r}")
        length = int(size[1], 16)
        if length == 0:
            return body, rest.partition(b"\r\n")[2]
        if rest[length : length + 2] != b"\r\n":
            raise Broken("RFC 9112 §7.1: a chunk of another length")
        body, rest = body + rest[:length], rest[length + 2 :]


def _field_faults(answer: Received) -> Iterator[str]:
    for name, syntax in _SYNTAX.items():
        values = answer.values(name)
        if name in _SINGLE and len(values) > 1:
            yield f"RFC 9110 §5.3: {len(values)} lines of {name}"
        for value in values:
            if not syntax.fullmatch(value):
                yield f"RFC 9110: {name}: {value!r}"
    for date in answer.values("date"):
        if _DATE.fullmatch(date) and date[:3] != f"{parsedate_to_datetime(date):%a}":
            yield f"RFC 9110 §5.6.7: day of the week in {date!r}"


def _status_faults(answer: Received) -> Iterator[str]:
    if not answer.values("date"):
        yield "RFC 9110 §6.6.1: no Date"
    needed = _NEEDED.get(answer.status)
    if needed and not answer.values(needed):
        yield f"RFC 9110 §15: {answer.status} without {needed}"
    if answer.status == 304 and answer.values("content-length"):
        yield "RFC 9110 §8.6: Content-Length of 304 has to be that of 200"
    if answer.status in {301, 302, 303, 307, 308} and not answer.values("location"):
        yield "RFC 9110 §15.4: a redirect without Location"
    if answer.values("age") and answer.status >= 400:
        yield "RFC 9111 §5.1: Age of an answer that no cache has"


def _body_faults(answer: Received, method: str) -> Iterator[str]:
    has_length = bool(answer.values("content-length"))
    is_chunked = bool(answer.values("transfer-encoding"))
    if has_length and is_chunked:
        yield "RFC 9112 §6.2: Content-Length beside Transfer-Encoding"
    if answer.status == 204 and (has_length or is_chunked):
        yield "RFC 9110 §15.3.5: 204 with a length"
    if answer.body and not answer.values("content-type"):
        yield "RFC 9110 §8.3: a body without Content-Type"
    if (
        answer.values("content-encoding")
        and "accept-encoding" not in answer.value("vary").lower()
    ):
        yield "RFC 9110 §12.5.5: a coding without Vary: Accept-Encoding"
    if method == "HEAD" and answer.body:
        yield "RFC 9110 §9.3.2: a body after HEAD"
