"""The callers that Locust plays: what they ask for, and what they hold answers against.

Every answer is checked; one that is wrong is a failure, and any failure fails the run.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, ClassVar, Final

from locust import FastHttpUser

from benchmarks.load.bill import Bill, WrongAnswer, expect

PAGE: Final = 10
TIMEOUT_S: Final = 30.0
PLAIN: Final = {"Accept-Encoding": "identity"}
GZIP: Final = {"Accept-Encoding": "gzip"}


class Caller(FastHttpUser):
    """One caller with a connection of its own; `bill` is set before the run."""

    abstract = True
    connection_timeout = TIMEOUT_S
    network_timeout = TIMEOUT_S
    bill: ClassVar[Bill]

    @contextmanager
    def asking(
        self, path: str, name: str, headers: dict[str, str], status: int = 200
    ) -> Iterator[Any]:
        """Ask; whatever is wrong with the answer inside the context is a failure."""
        with self.client.get(
            path, name=name, headers=headers, catch_response=True
        ) as response:
            try:
                expect(response.status_code == status, f"status {response.status_code}")
                yield response
            except (WrongAnswer, LookupError, TypeError) as error:
                response.failure(f"{type(error).__name__}: {error}")


def read_usage(caller: Caller) -> None:
    """The whole period, compressed."""
    with caller.asking("/usage", "/usage (gzip)", GZIP) as response:
        coding = response.headers.get("Content-Encoding")
        expect(coding == "gzip", f"Content-Encoding: {coding}")
        caller.bill.check_whole(response.content, response.headers.get("ETag", ""))


def read_plain_usage(caller: Caller) -> None:
    """The whole period, not compressed."""
    with caller.asking("/usage", "/usage", PLAIN) as response:
        caller.bill.check_whole(response.content, response.headers.get("ETag", ""))


def read_usage_again(caller: Caller) -> None:
    """The period of which the caller has a copy: nothing is sent again."""
    with caller.asking("/usage", "/usage (first)", PLAIN) as response:
        etag = response.headers.get("ETag", "")
        caller.bill.check_whole(response.content, etag)
    given = {**PLAIN, "If-None-Match": etag}
    with caller.asking("/usage", "/usage (304)", given, 304) as response:
        expect(not response.content, "a 304 with a body")
        expect(response.headers.get("ETag") == etag, "a 304 with another ETag")


def read_message(caller: Caller) -> None:
    """One message, step by step."""
    message_id = random.choice(caller.bill.items)["message_id"]
    with caller.asking(f"/usage/{message_id}", "/usage/{id}", PLAIN) as response:
        caller.bill.check_message(response.content, message_id)


def read_daily(caller: Caller) -> None:
    """The sums by day."""
    with caller.asking("/usage/daily", "/usage/daily", PLAIN) as response:
        caller.bill.check_daily(response.content)


def read_reports(caller: Caller) -> None:
    """The sums by report."""
    with caller.asking("/usage/reports", "/usage/reports", PLAIN) as response:
        caller.bill.check_reports(response.content)


def read_expensive(caller: Caller) -> None:
    """The first page of the most expensive messages."""
    path = f"/usage?sort=credits_used:desc&limit={PAGE}"
    with caller.asking(path, "/usage?sort&limit", PLAIN) as response:
        page = caller.bill.check_part(response.content)
        prices = [item["credits_used"] for item in page]
        all_prices = map(itemgetter("credits_used"), caller.bill.items)
        expect(
            prices == sorted(all_prices, reverse=True)[:PAGE], "not the most expensive"
        )


def read_since(caller: Caller) -> None:
    """All from one message's moment on."""
    since = random.choice(caller.bill.items)["timestamp"]
    with caller.asking(f"/usage?from={since}", "/usage?from", PLAIN) as response:
        page = caller.bill.check_part(response.content)
        wanted = sum(item["timestamp"] >= since for item in caller.bill.items)
        expect(len(page) == wanted, f"{len(page)} messages since {since}")


def read_health(caller: Caller) -> None:
    """Liveness of the process."""
    with caller.asking("/health/live", "/health/live", PLAIN):
        pass


Tasks = dict[Callable[[Caller], None], int]

USAGE: Final[Tasks] = {read_usage: 3, read_plain_usage: 1}
EVERYTHING: Final[Tasks] = {
    read_usage: 10,
    read_plain_usage: 3,
    read_usage_again: 5,
    read_message: 6,
    read_daily: 2,
    read_reports: 2,
    read_expensive: 3,
    read_since: 2,
    read_health: 2,
}
