"""The store: snapshots by number, none of which a later refresh changes."""

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import msgspec
import pytest

from service.usage.pricing.plans import TEXT_RULES, TOKEN_ESTIMATE
from service.usage.snapshots import decoding
from service.usage.snapshots import store as module
from service.usage.snapshots.answers import Explanation
from service.usage.snapshots.build import ReportPrice, ResolvedReports
from service.usage.snapshots.errors import RevisionGone
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.logged_prices import Priced, PriceLogging
from service.usage.snapshots.selection import EVERYTHING
from service.usage.snapshots.store import SnapshotStore
from tests.patience import GIVE_UP_S
from tests.reference import body_of, message

DEFAULT: Final = TEXT_RULES.id
OTHER: Final = TOKEN_ESTIMATE.id
LEASE: Final = ReportPrice("Lease", 6100)
NO_REPORTS: Final = ResolvedReports((), ())
LOGGING: Final = PriceLogging("a1", 100)

Sent = dict[str, Any]


def add(
    store: SnapshotStore,
    number: int,
    *messages: Sent,
    reports: ResolvedReports = NO_REPORTS,
    logging: PriceLogging = LOGGING,
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


def test_same_body_is_not_decoded_again(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upstream without tags sends the same again, which costs only a digest."""
    monkeypatch.setattr(decoding, "lenient_json", None)
    assert store.load(2, body_of([message(1)]), 1).messages == 1


# Loading.


def test_messages_that_are_gone_cannot_be_loaded_again(store: SnapshotStore) -> None:
    """Without the texts of the previous snapshot, or without it, upstream is needed."""
    store.adopt(2, store.pack(1, DEFAULT))
    for previous in (None, 2, 7):
        with pytest.raises(RevisionGone):
            store.load(3, None, previous)
    assert store.load(3, body_of([message(1)]), 2).messages == 1
    store.build(3, 2, NO_REPORTS, LOGGING, plan=DEFAULT)
    assert store.load(4, None, 3).messages == 1


# Pricing.


def test_other_plan_is_priced_on_demand(store: SnapshotStore) -> None:
    """It is priced once for each snapshot, upon its prices in the one before."""
    first = store.price(1, OTHER, PriceLogging("p1", 9))
    again = store.price(1, OTHER, PriceLogging("p2", 9))
    add(store, 2, message(1), message(2, "What is the rent?"), message(3))
    with pytest.raises(RevisionGone):
        store.answer(2, OTHER, JSON)
    later = store.price(2, OTHER, PriceLogging("p3", 9))

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


@pytest.mark.parametrize("is_late", [False, True])
def test_messages_of_a_dropped_number_are_not_kept(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, *, is_late: bool
) -> None:
    """A refresh that ends without a snapshot leaves nothing, even if it decodes on."""
    barrier = Barrier()
    delay_first(monkeypatch, "read_messages", barrier)
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(store.load, 2, body_of([message(2)]), 1)
        assert barrier.reached.wait(GIVE_UP_S)
        if is_late:
            store.drop(2)
        barrier.opened.set()
        loading.result()
    if not is_late:
        store.drop(2)

    assert store._loaded is None
    with pytest.raises(RevisionGone):
        store.build(2, 1, NO_REPORTS, LOGGING, plan=DEFAULT)
