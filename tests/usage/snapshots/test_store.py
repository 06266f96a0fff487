"""The store: snapshots by number, none of which a later refresh changes."""

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.usage.pricing.plans import TEXT_RULES, TOKEN_ESTIMATE
from service.usage.snapshots import store as module
from service.usage.snapshots.answers import Explanation
from service.usage.snapshots.build import ReportPrice, ResolvedReports
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.errors import MessageNotFound, RevisionGone, TextsMissing
from service.usage.snapshots.formats import FORMATS, JSON
from service.usage.snapshots.messages import read_messages
from service.usage.snapshots.selection import EVERYTHING, Selection
from service.usage.snapshots.store import (
    Loaded,
    Logging,
    Priced,
    Shrink,
    SnapshotStore,
)
from tests.patience import GIVE_UP_S
from tests.reference import body_of, message

DEFAULT: Final = TEXT_RULES.id
OTHER: Final = TOKEN_ESTIMATE.id
LEASE: Final = ReportPrice("Lease", 6100)
NO_REPORTS: Final = ResolvedReports((), ())
LOGGING: Final = Logging("a1", 100)

Sent = dict[str, Any]


def add(
    store: SnapshotStore,
    number: int,
    *messages: Sent,
    reports: ResolvedReports = NO_REPORTS,
    logging: Logging = LOGGING,
) -> Priced:
    """Load and build a snapshot upon the one before."""
    store.load(number, body_of(messages), number - 1)
    return store.build(number, number - 1, reports, logging, plan=DEFAULT)


def ids_in(store: SnapshotStore, number: int) -> list[int]:
    answer = msgspec.json.decode(store.answer(number, DEFAULT, JSON))
    return [item["message_id"] for item in answer["usage"]]


def explained(
    store: SnapshotStore, number: int, message_id: int, plan: str = DEFAULT
) -> Explanation:
    body = store.explain(number, plan, message_id).body
    return msgspec.json.decode(body, type=Explanation)


@pytest.fixture
def store() -> SnapshotStore:
    """A store of snapshot 1, which has message 1."""
    store = SnapshotStore()
    add(store, 1, message(1))
    return store


# Snapshots.


def queries_of(number: int, plan: str) -> list[Callable[[SnapshotStore], Any]]:
    return [
        lambda store: store.answer(number, plan, JSON),
        lambda store: store.extract(number, plan, JSON, EVERYTHING),
        lambda store: store.explain(number, plan, 1),
        lambda store: store.daily(number, plan, None),
        lambda store: store.by_report(number, plan),
        lambda store: store.pack(number, plan),
        lambda store: store.priced(number, plan),
    ]


@pytest.mark.parametrize(
    "number, plan", [(2, DEFAULT), (1, OTHER)], ids=["no snapshot", "no such plan"]
)
def test_what_is_not_there_is_gone(
    store: SnapshotStore, number: int, plan: str
) -> None:
    """A query never answers from another snapshot or another plan."""
    for query in queries_of(number, plan):
        with pytest.raises(RevisionGone):
            query(store)


def test_snapshots_do_not_change_each_other(store: SnapshotStore) -> None:
    """While a refresh loads and builds, and after it, the one before is as it was."""
    queries = queries_of(1, DEFAULT)[:-1]
    before = [query(store) for query in queries]
    store.load(2, body_of([message(2)]), 1)
    assert [query(store) for query in queries] == before
    store.build(2, 1, NO_REPORTS, LOGGING, plan=DEFAULT)

    assert [query(store) for query in queries] == before
    assert (ids_in(store, 1), ids_in(store, 2)) == ([1], [2])
    with pytest.raises(MessageNotFound):
        store.explain(2, DEFAULT, 1)


def test_dropped_snapshot_is_gone_alone(store: SnapshotStore) -> None:
    """Its memory is free; others answer on, also those that were built upon it."""
    add(store, 2, message(1), message(2))
    store.drop(1)
    store.drop(1)

    with pytest.raises(RevisionGone):
        store.messages(1)
    assert ids_in(store, 2) == [1, 2]
    assert add(store, 3, message(1)).reused == 1


@pytest.mark.parametrize("previous", [None, 1, 7], ids=["none", "known", "gone"])
def test_snapshot_is_built_upon_any_other_or_none(
    store: SnapshotStore, previous: int | None
) -> None:
    """The previous snapshot saves work, and is not needed."""
    loaded = store.load(2, body_of([message(1), message(2)]), previous)
    priced = store.build(2, previous, NO_REPORTS, LOGGING, plan=DEFAULT)

    assert (loaded.messages, loaded.shrink) == (2, None)
    assert priced.reused == (1 if previous == 1 else 0)
    assert ids_in(store, 2) == [1, 2]


# Loading.


def test_loaded_messages_name_their_reports(store: SnapshotStore) -> None:
    """Each usable report id once, the unusable ones, and the digest of the body."""
    ids: list[Any] = [7, "7", None, "x/9", 1.5]
    body = body_of(message(n, report_id=each) for n, each in enumerate(ids))
    digest = read_messages(body).digest

    assert store.load(2, body, 1) == Loaded(5, ["7", "x/9"], [None, 1.5], digest, None)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"messages":[{}]}'])
def test_body_that_breaks_the_contract_changes_nothing(
    store: SnapshotStore, body: bytes
) -> None:
    """The snapshot before answers on, and nothing is left to build by accident."""
    store.load(2, body_of([message(2)]), 1)
    with pytest.raises(msgspec.DecodeError):
        store.load(3, body, 1)

    for number in (2, 3):
        with pytest.raises(RevisionGone):
            store.build(number, 1, NO_REPORTS, LOGGING, plan=DEFAULT)
    assert ids_in(store, 1) == [1]


@pytest.mark.parametrize("is_sent", [False, True], ids=["not modified", "same body"])
def test_same_messages_can_be_priced_by_other_reports(
    store: SnapshotStore, *, is_sent: bool
) -> None:
    """Upstream has no newer messages, but reports have changed."""
    sent = message(1, report_id=7)
    add(store, 2, sent, reports=ResolvedReports([None], ()))

    loaded = store.load(3, body_of([sent]) if is_sent else None, 2)
    priced = store.build(3, 2, ResolvedReports([LEASE], ()), LOGGING, plan=DEFAULT)

    assert (loaded.messages, loaded.report_keys) == (1, ["7"])
    assert priced.summary == Summary(DEFAULT, 1, 61.0, 0)
    assert explained(store, 2, 1).source == "text"
    assert explained(store, 3, 1).source == "report"


def test_same_body_is_not_decoded_again(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upstream without tags sends the same again, which costs only a digest."""
    monkeypatch.setattr(module, "read_messages", None)
    assert store.load(2, body_of([message(1)]), 1).messages == 1


def test_messages_that_are_gone_cannot_be_loaded_again(store: SnapshotStore) -> None:
    """Without the texts of the previous snapshot, or without it, upstream is needed."""
    store.adopt(2, store.pack(1, DEFAULT))
    for previous in (None, 2, 7):
        with pytest.raises(RevisionGone):
            store.load(3, None, previous)
    assert store.load(3, body_of([message(1)]), 2).messages == 1
    store.build(3, 2, NO_REPORTS, LOGGING, plan=DEFAULT)
    assert store.load(4, None, 3).messages == 1


# Messages that are gone.

KNOWN: Final = range(1, 11)
LATER: Final = "2024-06-01T00:00:00Z"
EARLIER: Final = "2024-01-01T00:00:00Z"


def sent(ids: Any, timestamp: str | None = None) -> list[Sent]:
    more = {"timestamp": timestamp} if timestamp else {}
    return [message(each, **more) for each in ids]


@pytest.mark.parametrize(
    "now, lost",
    [
        (sent([]), 10),
        (sent(KNOWN[:4]), 6),
        (sent(KNOWN[:5]), None),
        (sent(KNOWN[5:]), None),
        (sent(KNOWN[6:]), 6),
        (sent([*range(20, 26), *KNOWN[6:]]), 6),
        (sent(range(20, 40), LATER), None),
        (sent([20], LATER), None),
        (sent(range(20, 40)), 10),
        (sent(range(20, 40), EARLIER), 10),
        (sent([20], LATER) + sent([21], EARLIER), 10),
        (sent([10], LATER) + sent(range(20, 40), LATER), 9),
        (sent(reversed(KNOWN)), None),
        (sent([*KNOWN, *KNOWN]), None),
        (sent([1] * 10), 9),
        (sent(KNOWN, LATER), None),
        ([each | {"text": "other"} for each in sent(KNOWN)], None),
        (sent([*range(20, 40), *KNOWN]), None),
    ],
    ids=[
        *("empty", "more than half lost", "exactly half lost", "first half lost"),
        *("first six lost", "six lost, six new", "new period", "one of a new period"),
        *("others of the same time", "others, earlier", "others, later and earlier"),
        *("one known among later ones", "reordered", "duplicated", "one, ten times"),
        *("all later", "all texts changed", "moved to the end"),
    ],
)
def test_lost_messages_are_found(now: list[Sent], lost: int | None) -> None:
    """A shrink is more than half of the known messages gone, unless a period begins."""
    store = SnapshotStore()
    add(store, 1, *sent(KNOWN))
    shrink = store.load(2, body_of(now), 1).shrink

    assert (shrink and (shrink.known, shrink.lost)) == (lost and (10, lost))


@pytest.mark.parametrize("now", [[], [1], [1, 2, 3]])
def test_nothing_is_lost_of_an_empty_period(now: list[int]) -> None:
    """A period that had no message cannot lose any."""
    store = SnapshotStore()
    add(store, 1)
    assert store.load(2, body_of(sent(now)), 1).shrink is None


def test_known_duplicates_count_each() -> None:
    """Losing one message that upstream had sent six times is losing six of ten."""
    store = SnapshotStore()
    add(store, 1, *sent([1, 1, 1, 1, 1, 1, 2, 3, 4, 5]))
    shrink = store.load(2, body_of(sent([2, 3, 4, 5])), 1).shrink
    assert shrink is not None
    assert (shrink.known, shrink.lost) == (10, 6)


def test_survivors_identify_a_shrink() -> None:
    """A second fetch confirms the first if the same known messages are left."""
    store = SnapshotStore()
    add(store, 1, *sent(KNOWN))
    first, again, more, other = (
        store.load(2, body_of(sent(now)), 1).shrink
        for now in ([1, 2], [2, 1], [1, 2, 30], [1, 3])
    )
    assert first == again == more
    assert isinstance(other, Shrink)
    assert isinstance(first, Shrink)
    assert first.survivors != other.survivors


def test_shrink_is_found_against_adopted_columns() -> None:
    """Texts are not needed to notice that messages are gone."""
    store = SnapshotStore()
    add(store, 1, *sent(KNOWN))
    store.adopt(2, store.pack(1, DEFAULT))
    shrink = store.load(3, body_of([]), 2).shrink
    assert shrink is not None
    assert (shrink.known, shrink.lost) == (10, 10)


@given(st.lists(st.integers(0, 9), max_size=9), st.lists(st.integers(0, 9)))
def test_shrink_counts_known_messages_that_are_gone(
    known: list[int], now: list[int]
) -> None:
    """Whatever the order, only ids count, where no message is later."""
    store = SnapshotStore()
    add(store, 1, *sent(known))
    shrink = store.load(2, body_of(sent(now)), 1).shrink
    lost = sum(each not in now for each in known)
    assert (shrink.lost if shrink else None) == (
        lost if 2 * lost > len(known) else None
    )


# Pricing.


def test_messages_priced_now_are_logged_up_to_a_limit(store: SnapshotStore) -> None:
    """Of the new messages the first are returned, the others counted."""
    priced = add(
        store,
        2,
        *(message(1), *(message(n, report_id=7) for n in range(2, 7))),
        reports=ResolvedReports([LEASE], ()),
        logging=Logging("b2", 2),
    )

    assert [each.message_id for each in priced.logged] == [2, 3]
    assert (priced.reused, priced.omitted) == (1, 3)
    assert priced.summary == Summary(DEFAULT, 6, 306.0, 0)
    first = priced.logged[0]
    assert (first.source, first.report_id, first.credits_used) == ("report", "7", 61.0)
    assert [step.step for step in first.steps] == ["report"]


def test_logged_prices_have_their_steps(store: SnapshotStore) -> None:
    """A price by text is logged as it is explained, with the report that is missing."""
    reports = ResolvedReports([None], [0])
    priced = add(store, 2, message(5, "rent", report_id=9), reports=reports)
    [logged] = priced.logged
    explanation = explained(store, 2, 5)

    assert (logged.source, logged.report_id) == ("text", "9")
    assert logged.steps == explanation.steps
    assert logged.credits_used == explanation.credits_used
    assert priced.summary.degraded == 1


def test_price_names_the_refresh_that_logged_it(store: SnapshotStore) -> None:
    """The log leads from an answer to each step, however many refreshes ago."""
    add(store, 2, message(1), message(2), logging=Logging("b2", 0))
    assert store.explain(2, DEFAULT, 1).refresh_id == "a1"
    assert store.explain(2, DEFAULT, 2).refresh_id == "b2"


def test_other_plan_is_priced_on_demand(store: SnapshotStore) -> None:
    """It is priced once for each snapshot, upon its prices in the one before."""
    first = store.price(1, OTHER, Logging("p1", 9))
    again = store.price(1, OTHER, Logging("p2", 9))
    add(store, 2, message(1), message(2, "What is the rent?"), message(3))
    with pytest.raises(RevisionGone):
        store.answer(2, OTHER, JSON)
    later = store.price(2, OTHER, Logging("p3", 9))

    assert (first.reused, len(first.logged), first.summary.plan) == (0, 1, OTHER)
    assert (again.reused, again.logged, again.omitted) == (1, [], 0)
    assert again.summary == first.summary
    assert (later.reused, later.summary.messages) == (1, 3)
    assert explained(store, 2, 2, OTHER).credits_used == 2.0
    assert store.explain(2, OTHER, 1).refresh_id == "p1"


def test_prices_of_a_plan_that_nobody_requests_are_not_kept(
    store: SnapshotStore,
) -> None:
    """One request for another plan does not keep a whole old period in memory."""
    store.price(1, OTHER, LOGGING)
    old = weakref.ref(store.priced(1, OTHER))
    add(store, 2, message(1))
    add(store, 3, message(1))
    store.drop(1)
    store.drop(2)
    gc.collect()

    assert old() is None


def test_every_query_answers_in_its_own_snapshot_and_plan(store: SnapshotStore) -> None:
    """Formats, pages, days and reports all come from the prices that are named."""
    store.price(1, OTHER, LOGGING)
    add(store, 2, *sent(KNOWN))
    for media_type in FORMATS:
        page = store.extract(2, DEFAULT, media_type, Selection(limit=3))
        whole = bytes(store.answer(2, DEFAULT, media_type))
        assert type(page.body) is bytes
        assert page.next is not None
        assert len(page.body) < len(whole)
    assert store.daily(2, DEFAULT, "Europe/London") == (
        b'{"days":[{"date":"2024-04-29","messages":10,"credits_used":10.0}]}'
    )
    assert store.by_report(1, OTHER) == (
        b'{"reports":[],"text":{"messages":1,"credits_used":1.0}}'
    )


# Adopting.


def test_adopted_snapshot_answers_without_texts(store: SnapshotStore) -> None:
    """Every query is answered as where it was priced; only another plan is not."""
    add(store, 2, message(1, "rent rent"), message(2, "a"))
    summary = store.adopt(9, store.pack(2, DEFAULT))

    assert summary == store.priced(2, DEFAULT).summary
    answers, adopted = (
        [query(store) for query in queries_of(number, DEFAULT)[:-1]]
        for number in (2, 9)
    )
    assert adopted == answers
    with pytest.raises(TextsMissing):
        store.price(9, OTHER, LOGGING)
    assert store.price(9, DEFAULT, LOGGING).reused == 2


# A refresh that was given up, its computation still running.


class Barrier:
    """Keeps the first caller waiting until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def pass_first(self) -> None:
        if self._lock.acquire(blocking=False):
            self.reached.set()
            assert self.opened.wait(GIVE_UP_S)


def delay_first(monkeypatch: pytest.MonkeyPatch, name: str, barrier: Barrier) -> None:
    """Keep the first call of a function of the module from returning."""
    original = getattr(module, name)

    def delayed(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        barrier.pass_first()
        return result

    monkeypatch.setattr(module, name, delayed)


def test_late_load_does_not_replace_a_newer_one(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old messages are never priced by the reports of the next refresh."""
    barrier = Barrier()
    delay_first(monkeypatch, "read_messages", barrier)
    with ThreadPoolExecutor() as pool:
        given_up: Future[Any] = pool.submit(store.load, 2, body_of([message(2)]), 1)
        assert barrier.reached.wait(GIVE_UP_S)
        store.load(3, body_of([message(3)]), 1)
        barrier.opened.set()
        given_up.result()

    with pytest.raises(RevisionGone):
        store.build(2, 1, NO_REPORTS, LOGGING, plan=DEFAULT)
    store.build(3, 1, NO_REPORTS, LOGGING, plan=DEFAULT)
    assert ids_in(store, 3) == [3]


def test_late_build_makes_a_snapshot_of_its_own(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh that was given up leaves nothing in the next one's snapshot."""
    barrier = Barrier()
    delay_first(monkeypatch, "build", barrier)
    sent_now = message(1, report_id=7)
    store.load(2, body_of([sent_now]), 1)
    with ThreadPoolExecutor() as pool:
        high = ResolvedReports([ReportPrice("Lease", 9900)], ())
        given_up = pool.submit(store.build, 2, 1, high, LOGGING, plan=DEFAULT)
        assert barrier.reached.wait(GIVE_UP_S)
        add(store, 3, sent_now, reports=ResolvedReports([LEASE], ()))
        barrier.opened.set()
        given_up.result()

    assert explained(store, 3, 1).credits_used == 61.0
    assert explained(store, 2, 1).credits_used == 99.0
