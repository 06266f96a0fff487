"""The books: what a refresh's steps change, and what those who ask see meanwhile."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import msgspec
import pytest

from service.usage import books as module
from service.usage import pricing
from service.usage.books import Books, Priced
from service.usage.errors import BooksLost, MessageNotFound
from service.usage.formats import JSON
from service.usage.ledger import Messages, read_messages
from service.usage.model import Report
from service.usage.rating import TEXT_RULES, TOKEN_ESTIMATE
from service.usage.reports import Settled
from service.usage.selection import Selection
from tests.patience import GIVE_UP_S
from tests.reference import message

LEASE: Final = Report(7, "Lease", 61)
EVERYTHING: Final = Selection()
NONE_SETTLED: Final = Settled({}, set())
MOST_TOLD: Final = 100


def body_of(*messages: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"messages": messages})


def keep(
    books: Books, *messages: dict[str, Any], settled: Settled = NONE_SETTLED
) -> list[Priced]:
    """One whole refresh."""
    books.load(body_of(*messages))
    priced = books.settle(settled, TEXT_RULES, MOST_TOLD)
    books.commit()
    return priced


def ids_in(books: Books) -> list[int]:
    answer = msgspec.json.decode(books.answer(TEXT_RULES, JSON))
    return [item["message_id"] for item in answer["usage"]]


@pytest.fixture
def books() -> Books:
    """The books of a period of one message, 1."""
    books = Books()
    keep(books, message(1))
    return books


def test_empty_books_have_no_answer() -> None:
    """Before the first period, and after a new start, asking fails as a loss."""
    books = Books()
    for ask in (
        lambda: books.answer(TEXT_RULES, JSON),
        lambda: books.extract(TEXT_RULES, JSON, EVERYTHING),
        lambda: books.explain(TEXT_RULES, 1),
        lambda: books.daily(TEXT_RULES, None),
        lambda: books.by_report(TEXT_RULES),
        lambda: books.tell(TEXT_RULES, 1),
        books.load_again,
    ):
        with pytest.raises(BooksLost):
            ask()


def test_contents_name_what_has_to_be_settled(books: Books) -> None:
    """How many messages, each usable report id once, and what is not usable."""
    ids: list[Any] = [7, "7", None, "x/9", 1.5]
    body = body_of(*(message(n, report_id=each) for n, each in enumerate(ids)))

    assert books.load(body) == (5, ["7", "x/9"], [None, 1.5])


def test_only_commit_is_seen(books: Books) -> None:
    """While a refresh loads and settles, everyone is answered from before."""
    books.load(body_of(message(2)))
    assert ids_in(books) == [1]
    books.settle(NONE_SETTLED, TEXT_RULES, MOST_TOLD)
    assert ids_in(books) == [1]
    assert books.explain(TEXT_RULES, 1).message_id == 1

    books.commit()

    assert ids_in(books) == [2]
    with pytest.raises(MessageNotFound):
        books.explain(TEXT_RULES, 1)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"messages":[{}]}'])
def test_a_body_that_breaks_changes_nothing(books: Books, body: bytes) -> None:
    """What was kept is kept, and nothing is left to settle or commit by accident."""
    with pytest.raises(msgspec.DecodeError):
        books.load(body)

    with pytest.raises(RuntimeError):
        books.settle(NONE_SETTLED, TEXT_RULES, MOST_TOLD)
    assert ids_in(books) == [1]


def test_the_same_messages_can_be_settled_anew(books: Books) -> None:
    """When upstream has no newer messages, but reports have changed."""
    keep(books, message(1, report_id=7), settled=Settled({"7": None}, set()))

    assert books.load_again() == (1, ["7"], [])
    (priced,) = books.settle(Settled({"7": LEASE}, set()), TEXT_RULES, MOST_TOLD)
    books.commit()

    assert priced.credits_total == 61.0
    assert books.explain(TEXT_RULES, 1).source == "report"


def test_every_plan_that_was_asked_for_is_priced_again(books: Books) -> None:
    """A refresh keeps the other plan's ledger up to date, with what it can reuse."""
    books.answer(TOKEN_ESTIMATE, JSON)

    priced = keep(books, message(1), message(2, "What is the rent?"))

    assert [(each.plan, each.messages, each.reused) for each in priced] == [
        ("text-rules/1", 2, 1),
        ("token-estimate/1", 2, 1),
    ]
    assert books.explain(TOKEN_ESTIMATE, 2).credits_used == 2.0


def test_what_was_priced_now_is_told_up_to_a_limit(books: Books) -> None:
    """Of the fresh messages the first are told, the others counted."""
    sent = [message(1), *(message(n, report_id=7) for n in range(2, 7))]
    books.load(body_of(*sent))
    settled = Settled({"7": LEASE}, set())

    (priced,) = books.settle(settled, TEXT_RULES, 2)

    assert [each.message_id for each in priced.rated] == [2, 3]
    assert (priced.reused, priced.omitted, priced.messages) == (1, 3, 6)
    assert priced.rated[0].report_id == "7"
    assert priced.credits_total == 306.0


def test_failed_reports_are_counted_as_degraded(books: Books) -> None:
    """Messages that text prices for want of a report are told apart."""
    sent = [message(n, report_id=each) for n, each in enumerate([7, 8, 8, 9])]
    settled = Settled({"7": LEASE, "8": None, "9": None}, {"8"})

    (priced,) = keep(books, *sent, settled=settled)

    assert priced.degraded == 2


def test_a_refresh_that_finds_nothing_new_reuses_all(books: Books) -> None:
    """Its sums stay; nothing is told again."""
    (priced,) = keep(books, message(1), message(2))

    again = priced.all_reused()

    assert (again.reused, again.rated, again.omitted) == (2, [], 0)
    assert again.credits_total == priced.credits_total


def test_cleared_books_keep_nothing(books: Books) -> None:
    """When another keeper has taken over, the memory is free."""
    books.load(body_of(message(2)))
    books.clear()

    with pytest.raises(BooksLost):
        books.answer(TEXT_RULES, JSON)
    with pytest.raises(RuntimeError):
        books.settle(NONE_SETTLED, TEXT_RULES, MOST_TOLD)


# A refresh that was given up, its computing still under way.


class Gate:
    """Holds the first call of a function back until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def pass_first(self) -> None:
        if self._lock.acquire(blocking=False):
            self.reached.set()
            assert self.opened.wait(GIVE_UP_S)


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_a_late_load_does_not_replace_a_newer_one(
    books: Books, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old messages never slip under the reports and the tag of the next refresh."""

    def read_held_back(body: bytes) -> Messages:
        messages = read_messages(body)
        gate.pass_first()
        return messages

    monkeypatch.setattr(module, "read_messages", read_held_back)
    with ThreadPoolExecutor() as pool:
        given_up: Future[Any] = pool.submit(books.load, body_of(message(2)))
        assert gate.reached.wait(GIVE_UP_S)
        books.load(body_of(message(3)))
        gate.opened.set()
        given_up.result()

    books.settle(NONE_SETTLED, TEXT_RULES, MOST_TOLD)
    books.commit()
    assert ids_in(books) == [3]


@pytest.mark.parametrize("is_same", [False, True], ids=["new messages", "the same"])
def test_a_late_price_is_not_committed_for_a_newer_one(
    books: Books, gate: Gate, monkeypatch: pytest.MonkeyPatch, *, is_same: bool
) -> None:
    """What the next refresh commits is its own, not the leftovers of the last."""
    price = pricing.price

    def price_held_back(*args: Any) -> Any:
        ledger = price(*args)
        gate.pass_first()
        return ledger

    keep(books, message(1, report_id=7), settled=Settled({"7": None}, set()))
    monkeypatch.setattr(module, "price", price_held_back)
    dear, cheap = (Settled({"7": Report(7, "Lease", cost)}, set()) for cost in (99, 61))
    with ThreadPoolExecutor() as pool:
        books.load_again()
        given_up: Future[Any] = pool.submit(books.settle, dear, TEXT_RULES, 0)
        assert gate.reached.wait(GIVE_UP_S)
        if is_same:
            books.load_again()
        else:
            books.load(body_of(message(1, report_id=7)))
        books.settle(cheap, TEXT_RULES, 0)
        gate.opened.set()
        given_up.result()

    books.commit()
    assert books.explain(TEXT_RULES, 1).credits_used == 61.0
