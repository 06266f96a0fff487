"""Whatever bytes arrive, what the service answers is HTTP, and it never hangs."""

import os
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.checker import Received, faults_of, read_answers
from tests.conformance.raw import (
    RawRequest,
    exchange,
    good_requests,
    pieces_of,
    raw_requests,
)
from tests.running import running

SOAK_S = float(os.environ.get("SOAK_S", "0"))
"""Seconds of `make soak`, which sets it: more requests, and not the same each time."""
EXPECTED_5XX = {501, 505}

# After a broken request it is not known which answer is that of a HEAD.
with_body = good_requests().filter(lambda each: each.method != "HEAD")
requests = st.lists(raw_requests() | with_body, min_size=1, max_size=4)
good = st.lists(good_requests(), min_size=1, max_size=4)
many = settings(
    max_examples=1_000 if SOAK_S else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not SOAK_S,
    database=None,
)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A service on its sandbox, in a process of its own."""
    folder = tmp_path_factory.mktemp("service")
    with running(folder / "log") as service:
        yield service.port


def answers_to(
    port: int, sent: Sequence[RawRequest], pieces: list[bytes]
) -> list[Received]:
    """Return the answers on one connection, each of them free of faults."""
    methods = [each.method for each in sent]
    answers = read_answers(exchange(port, pieces), methods)
    for number, answer in enumerate(answers):
        method = methods[number] if number < len(methods) else ""
        assert faults_of(answer, method) == []
        assert answer.status < 500 or answer.status in EXPECTED_5XX
    return answers


@given(st.data())
@many
def test_any_bytes_get_answers_that_are_http(port: int, data: st.DataObject) -> None:
    """No 5xx of ours, no hang, no answer that breaks a rule of HTTP."""
    sent = data.draw(requests)
    joined = b"".join(each.data for each in sent)
    answers_to(port, sent, data.draw(pieces_of(joined)))


@given(st.data())
@many
def test_every_good_request_is_answered(port: int, data: st.DataObject) -> None:
    """In any pieces, pipelined, and with the end of sending right after them."""
    sent = data.draw(good)
    joined = b"".join(each.data for each in sent)
    assert len(answers_to(port, sent, data.draw(pieces_of(joined)))) == len(sent)


@given(st.data())
@many
def test_good_requests_before_a_broken_one_are_answered(
    port: int, data: st.DataObject
) -> None:
    """First they are answered in order, then the broken one gets 400 and the end."""
    sent = data.draw(good)
    joined = b"".join(each.data for each in sent) + b"hello\r\n\r\n"
    answers = answers_to(port, sent, data.draw(pieces_of(joined)))
    assert len(answers) == len(sent) + 1
    assert answers[-1].status == 400
    assert "close" in answers[-1].value("connection")
