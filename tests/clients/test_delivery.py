"""What is sent when, and what an answer means; without a network."""

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from copilot_usage_client import Problem, delivery
from copilot_usage_client.delivery import Delivery
from copilot_usage_client.outbox import Outbox
from copilot_usage_client.transport import Answer, NoAnswer
from tests.clients.conftest import spooled
from tests.clients.test_spool import lines

MIB = 1024 * 1024
Reply = Callable[[list[dict[str, Any]]], Answer | NoAnswer]


class Sender:
    """An outbox and its delivery, and the events of each request."""

    def __init__(self, folder: Path | None) -> None:
        self.outbox = Outbox(folder, 100 * MIB, 100 * MIB)
        self.delivery = Delivery(self.outbox, "key", compresses=False)
        self.requests: list[list[str]] = []
        self.accepted: list[str] = []

    def send(self, *replies: Reply) -> None:
        """Send until nothing waits; answer with the replies, and then accept all."""
        answers = itertools.chain(replies, itertools.repeat(accept))
        while not self.outbox.is_empty() or self.delivery.next_request():
            request = self.delivery.next_request()
            if request is None:
                self.delivery.hurry()
                continue
            events = [json.loads(line) for line in request[0].splitlines()]
            self.requests.append([each["id"] for each in events])
            answer = next(answers)(events)
            told = answer.body if isinstance(answer, Answer) else b""
            if told.count(b"status") == len(events):
                self.accepted += self.requests[-1]
            self.delivery.handle(answer)

    def problems(self) -> list[Problem]:
        """Return the problems since the last call."""
        return self.outbox.next_problems(is_last=True)


@pytest.fixture(params=["spool", "memory"])
def sender(request: pytest.FixtureRequest, spool_dir: Path) -> Sender:
    """Return a sender of 1,500 events, with a spool and without."""
    sender = Sender(spool_dir if request.param == "spool" else None)
    for line in lines(range(1_500)):
        sender.outbox.put(line)
    return sender


IDS = [f"{number:05}" for number in range(1_500)]


def accept(events: list[dict[str, Any]]) -> Answer:
    """Accept all events."""
    return results(*({"status": "accepted"} for _ in events))


def results(*each: Any) -> Answer:
    """Return a receipt with these results."""
    return Answer(202, json.dumps({"results": each}).encode())


def always(status: int, body: bytes = b"", retry_after: str | None = None) -> Reply:
    """Return a reply that is the same for all events."""
    return lambda _: Answer(status, body, retry_after)


def no_answer(_events: object) -> NoAnswer:
    """Fail as a connection does."""
    return NoAnswer("reset")


TRANSIENT = (408, 425, 429, 500, 502, 503, 504, 599)


@pytest.mark.parametrize(
    "fail",
    [
        *map(always, TRANSIENT),
        no_answer,
        always(202),
        always(202, b'{"results":[{"sta'),
    ],
    ids=[*map(str, TRANSIENT), "no answer", "empty", "cut off"],
)
def test_a_temporary_failure_is_retried(fail: Reply, sender: Sender) -> None:
    """All events are sent again, with the same ids and in order; nobody is bothered."""
    sender.send(fail, fail)

    assert sender.requests[0] == sender.requests[1] == sender.requests[2] == IDS[:1_000]
    assert sender.accepted == IDS
    assert sender.problems() == []


@pytest.mark.parametrize(
    "fail",
    [
        *map(always, (200, 204, 301, 302, 307, 308, 401, 403, 404, 405, 410, 415)),
        lambda _: results({"status": "accepted"}),
        always(202, b"[]"),
        always(202, b"[" * 100_000 + b"]" * 100_000),
    ],
)
def test_what_somebody_has_to_mend_keeps_the_events(
    fail: Reply, sender: Sender
) -> None:
    """They are kept until they are accepted, and the cause is reported once."""
    sender.send(fail, fail, fail, accept, fail)

    assert sender.accepted == IDS
    reported = sender.problems()
    assert [(each.code, each.events) for each in reported] == [("refused", 0)] * 2


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("bad", [0, 7, 999])
def test_a_refused_batch_is_halved(status: int, bad: int, sender: Sender) -> None:
    """Only the event that the service refuses on its own is given up, and reported."""

    def refuse(events: list[dict[str, Any]]) -> Answer:
        is_bad = any(each["id"] == IDS[bad] for each in events)
        return Answer(status) if is_bad else accept(events)

    sender.send(*itertools.repeat(refuse, 30))

    assert sender.accepted == [each for each in IDS if each != IDS[bad]]
    (problem,) = sender.problems()
    assert (problem.code, problem.event_id) == ("rejected", IDS[bad])
    assert len(sender.requests) < 25


def test_a_failure_while_halving_loses_nothing(sender: Sender) -> None:
    """The parts that were not delivered are sent again, the others are not."""
    sender.send(always(413), accept, no_answer)

    assert sorted(sender.accepted) == IDS
    assert sender.problems() == []


def test_results_of_events_are_reported(sender: Sender) -> None:
    """Failed and conflicting events are reported with the errors of the service."""
    error = {"code": "schema", "path": "/data", "message": "no"}
    odd = [{"status": "odd"}, 7, {"status": "failed", "errors": [error, 7]}]
    told = [*odd, {"status": "conflict"}, {"status": "duplicate"}]
    sender.send(lambda events: results(*told, *[{"status": "accepted"}] * 995))

    reported = [(each.code, each.event_id, each.errors) for each in sender.problems()]
    assert reported == [
        ("failed", IDS[0], ()),
        ("failed", IDS[1], ()),
        ("failed", IDS[2], (error,)),
        ("conflict", IDS[3], ()),
    ]
    assert (sender.delivery.delivered, sender.delivery.failed) == (1_496, 4)


@pytest.mark.parametrize(
    "retry_after, at_least_s, at_most_s",
    [
        ("3000", 2_000, 3_000),
        (" 3000 ", 2_000, 3_000),
        ("99999999999999999999", 2_000, 3_600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 2_000, 3_600),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 1),
        ("-1", 0, 1),
        ("soon", 0, 1),
        ("²", 0, 1),
        (None, 0, 1),
    ],
)
def test_retry_after_is_obeyed(
    retry_after: str | None, at_least_s: float, at_most_s: float, sender: Sender
) -> None:
    """Seconds and dates are obeyed up to an hour, also by `flush`; nothing else is."""
    assert sender.delivery.next_request() is not None
    before = time.monotonic()
    sender.delivery.handle(Answer(503, b"", retry_after))
    sender.delivery.hurry()

    assert at_least_s <= max(0, sender.delivery.earliest - before)
    assert sender.delivery.earliest <= time.monotonic() + at_most_s
    assert (sender.delivery.next_request() is None) == (at_least_s > 0)


def test_the_backoff_grows_to_its_cap(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It doubles, is random between a half and the whole, and has an upper bound."""
    monkeypatch.setattr(delivery, "FIRST_BACKOFF_S", 100.0)
    monkeypatch.setattr(delivery, "MAX_BACKOFF_S", 1_000.0)
    for bound_s in (100, 200, 400, 800, *[1_000] * 60):
        assert sender.delivery.next_request() is not None
        before = time.monotonic()
        sender.delivery.handle(NoAnswer("reset"))
        assert bound_s / 2 <= sender.delivery.earliest - before
        assert sender.delivery.earliest - time.monotonic() <= bound_s
        sender.delivery.hurry()


def test_a_failure_moves_all_events_to_the_spool(spool_dir: Path) -> None:
    """During an outage the events survive the end of the process, new ones too."""
    sender = Sender(spool_dir)
    for line in lines(range(1_500)):
        sender.outbox.put(line)
    assert sender.delivery.next_request() is not None
    sender.delivery.handle(Answer(503, b"", "100"))
    assert len(spooled(spool_dir)) == 1_500
    sender.outbox.put(lines(range(1_500, 1_501))[0])
    assert sender.delivery.next_request() is None

    assert len(spooled(spool_dir)) == 1_501
    assert sender.outbox.memory_bytes == 0


def test_an_answer_after_the_end_has_no_effect(sender: Sender) -> None:
    """A batch that was given back is sent again, whatever its answer says."""
    assert sender.delivery.next_request() is not None
    sender.delivery.give_back()
    sender.delivery.handle(accept([{}] * 1_000))
    sender.send()

    assert sender.accepted == IDS
