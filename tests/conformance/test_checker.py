"""The checker itself: it accepts what standards allow, and names what they forbid."""

import pytest

from tests.conformance.checker import Broken, faults_of, read_answers

DATE = b"Date: Sat, 28 Nov 2026 07:00:00 GMT\r\n"
PLAIN = b"Content-Type: text/plain\r\n"
GOOD = b"HTTP/1.1 200 OK\r\n" + DATE + PLAIN


def test_answers_follow_each_other_on_a_connection() -> None:
    """Interim answers are skipped, HEAD and 304 have no body, chunks are joined."""
    raw = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        + GOOD
        + b"Content-Length: 2\r\n\r\nab"
        + GOOD
        + b"Content-Length: 9\r\n\r\n"
        + b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n'
        + DATE
        + b"\r\n"
        + GOOD
        + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n2;a=b\r\nyz\r\n0\r\n\r\n"
    )
    methods = ["GET", "HEAD", "GET", "GET"]
    answers = read_answers(raw, methods)
    assert [each.body for each in answers] == [b"ab", b"", b"", b"xyz"]
    pairs = zip(answers, methods, strict=True)
    assert [faults_of(answer, method) for answer, method in pairs] == [[]] * 4


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"HTTP/2.0 200 OK\r\n\r\n", id="version"),
        pytest.param(b"HTTP/1.1 200\r\n\r\n", id="no reason's space"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", id="space before the colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", id="folded"),
        pytest.param(GOOD + b"Content-Length: 3\r\n\r\nab", id="short"),
        pytest.param(GOOD + b"Content-Length: 1\r\n\r\nabc", id="more bytes"),
        pytest.param(
            GOOD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two lengths"
        ),
        pytest.param(
            GOOD + b"Transfer-Encoding: chunked\r\n\r\n2\r\na\r\n", id="chunk's length"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b", id="no end"),
    ],
)
def test_bytes_that_are_no_answer_are_broken(raw: bytes) -> None:
    """Where one answer is no HTTP, nothing after it can be trusted."""
    with pytest.raises(Broken):
        read_answers(raw, ["GET"])


@pytest.mark.parametrize(
    "head, fault",
    [
        pytest.param(b"200 OK\r\n" + PLAIN, "no Date", id="date"),
        pytest.param(b"200 OK\r\n" + DATE, "without Content-Type", id="type"),
        pytest.param(b"405 No\r\n" + DATE + PLAIN, "without allow", id="allow"),
        pytest.param(b"401 No\r\n" + DATE + PLAIN, "www-authenticate", id="challenge"),
        pytest.param(b"200 OK\r\nETag: a\r\n" + DATE + PLAIN, "etag", id="bare tag"),
        pytest.param(b"200 OK\r\nAge: 1.5\r\n" + DATE + PLAIN, "age", id="age"),
        pytest.param(
            b"200 OK\r\nAge: 1\r\nAge: 2\r\n" + DATE + PLAIN, "2 lines", id="ages"
        ),
        pytest.param(
            b"200 OK\r\nContent-Encoding: gzip\r\n" + DATE + PLAIN, "Vary", id="vary"
        ),
        pytest.param(
            b"200 OK\r\nDate: Sun, 28 Nov 2026 07:00:00 GMT\r\n" + PLAIN,
            "day of the week",
            id="weekday",
        ),
        pytest.param(b"303 See Other\r\n" + DATE + PLAIN, "Location", id="redirect"),
    ],
)
def test_a_broken_rule_is_named(head: bytes, fault: str) -> None:
    """Each rule of the standards that an answer breaks is one line."""
    raw = b"HTTP/1.1 " + head + b"Content-Length: 1\r\n\r\nx"
    (answer,) = read_answers(raw, ["GET"])
    assert any(fault in each for each in faults_of(answer))
