"""Reports: their contract, the resolution of ids, and the cache."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from structlog.typing import EventDict
from yarl import URL

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.upstream.client import open_client
from service.upstream.errors import ContractBroken
from service.usage.errors import ReportUnavailable
from service.usage.reports import (
    MAX_CREDIT_COST,
    Report,
    ReportCache,
    ReportResolver,
    Resolved,
    SharedReports,
    log_invalid_id,
)
from service.usage.snapshots.decoding import read_messages
from service.usage.snapshots.messages import show_invalid_id
from tests.clock import Clock
from tests.conftest import MakeSettings, always, message, report
from tests.usage.conftest import Until

ATTEMPTS = 2
LEASE = Report(7, "Short Lease Report", 61)
TENANTS = Report(8, "Tenant Obligations Report", 79)

OpenResolver = Callable[..., AbstractAsyncContextManager[ReportResolver]]

IDS: list[int | str] = [
    *(7, -5, 10**30, "a/b", "/a", "a\\b", "...", "%2e", "%2e%2e", "%2F"),
    *("../../messages/current-period", "100%", "%zz", "?x=1", "#x", ";a=b&c", " "),
    *("a+b", "a\r\nHost: elsewhere", "a\0b", "Prüfung", "🏠", "e\u0301"),
    *("http://elsewhere/", "@elsewhere", "a:b", "x" * 2000),
]


@pytest.fixture
def open_resolver(settings: MakeSettings, sandbox: RunningSandbox) -> OpenResolver:
    """A factory of resolvers that call the sandbox."""

    @asynccontextmanager
    async def opened(
        concurrency: int = 8, shared: SharedReports | None = None
    ) -> AsyncIterator[ReportResolver]:
        made = settings(
            upstream={
                "base_url": sandbox.url,
                "attempts": ATTEMPTS,
                "concurrency": concurrency,
            }
        )
        async with open_client(made.upstream, made.breaker) as client:
            cache = ReportCache(made.cache)
            yield ReportResolver(
                client, cache, shared, concurrency=concurrency, on_error="fail"
            )

    return opened


def resolving_tasks() -> int:
    """Tasks of `resolve` that are not done."""
    names = [getattr(task.get_coro(), "__name__", "") for task in asyncio.all_tasks()]
    return names.count("_resolve_next")


# --- the contract -------------------------------------------------------------------


def decode_report(credit_cost: str) -> Report:
    """A report whose cost is written in JSON like this."""
    body = f'{{"id": 7, "name": "Short Lease Report", "credit_cost": {credit_cost}}}'
    return msgspec.json.decode(body, type=Report)


def hundredths_of(found: Report) -> int:
    """Return the price that a build is given for the report."""
    [price] = Resolved({"7": found}, set()).prices_of(["7"]).prices
    assert price is not None
    assert price.name == found.name
    return price.hundredths


@pytest.mark.parametrize(
    "credit_cost, hundredths",
    [("-0.0", 0), ("61.00", 6100), ("0.29", 29), ("1e3", 100_000)],
)
def test_cost_is_exact_in_hundredths(credit_cost: str, hundredths: int) -> None:
    """A cost in its bounds becomes the hundredths that it was written as."""
    assert hundredths_of(decode_report(credit_cost)) == hundredths


@given(st.integers(0, MAX_CREDIT_COST * 100))
def test_every_cost_of_two_decimals_is_exact(hundredths: int) -> None:
    """No binary fraction shifts a price, up to the highest cost."""
    written = str(Decimal(hundredths) / 100)
    assert hundredths_of(decode_report(written)) == hundredths


@given(
    st.integers(0, MAX_CREDIT_COST * 1000 - 1).filter(
        lambda thousandths: thousandths % 10
    )
)
def test_no_cost_of_three_decimals_is_taken(thousandths: int) -> None:
    """A cost that cannot be billed exactly is refused, not rounded."""
    with pytest.raises(msgspec.ValidationError, match="more than two decimals"):
        decode_report(str(Decimal(thousandths) / 1000))


@pytest.mark.parametrize(
    "credit_cost",
    [
        *("-1", "-0.01", "0.005", "61.001", "1e-300", "5e-324"),
        *("1000000000.01", "1000000001", "1e10", "1e308", "1e309"),
        *(str(2**63), str(2**64), "1" + "0" * 400, "1" + "0" * 5000),
        *("null", "true", "false", '"61"', "[61]", "{}"),
        *("NaN", "Infinity", "-Infinity", "0x3d", "061", ".5", ""),
    ],
    ids=lambda written: written[:24] or "nothing",
)
def test_unusable_cost_is_refused(credit_cost: str) -> None:
    """Negative, too fine, too large, of another type or no JSON: no such report."""
    with pytest.raises(msgspec.DecodeError):
        decode_report(credit_cost)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "n", "credit_cost": 1},
        {"id": 7, "credit_cost": 1},
        {"id": 7, "name": "n"},
        {"id": 7.5, "name": "n", "credit_cost": 1},
        {"id": 7, "name": None, "credit_cost": 1},
        [7, "n", 1],
    ],
    ids=["no id", "no name", "no cost", "float id", "null name", "list"],
)
def test_report_that_breaks_the_contract_is_refused(body: object) -> None:
    """Every field of a report is mandatory and has its type."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(body), type=Report)


@pytest.mark.parametrize("report_id", ["7", "-7", '"7"', '"../x"', str(2**70)])
def test_report_is_read_with_fields_nobody_knows(report_id: str) -> None:
    """Ids are integers or strings, and extra fields do no harm."""
    body = f'{{"x": [1, {{}}], "id": {report_id}, "name": "n", "credit_cost": 2}}'
    decoded = msgspec.json.decode(body, type=Report)
    assert decoded == Report(msgspec.json.decode(report_id), "n", 2)


# --- ids ----------------------------------------------------------------------------


@pytest.mark.parametrize("report_id", IDS, ids=lambda each: repr(each)[:24])
async def test_an_id_cannot_change_the_path(
    open_resolver: OpenResolver, sandbox: RunningSandbox, report_id: int | str
) -> None:
    """On the wire an id is one segment after `/reports/`, and decodes to itself."""
    sandbox.sandbox.set_report(report_id, report(1, "Found", 61))
    body = msgspec.json.encode({"messages": [message(1, report_id=report_id)]})

    async with open_resolver() as resolver:
        resolved = await resolver.resolve(read_messages(body).report_keys)

    (path,) = sandbox.sandbox.calls
    segment = path.removeprefix("/reports/")
    assert segment != path
    assert not set("/?#\\") & set(segment)
    assert segment not in {"", ".", ".."}
    assert unquote(segment) == str(report_id)
    assert resolved == Resolved({str(report_id): Report(1, "Found", 61)}, set())


texts = st.text("./%2eE?#\\;aü ", min_size=1) | st.text(min_size=1, max_size=50)


@examples(
    max_examples=50,
    deadline=None,
    # Each example counts its own calls.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts)
@example(".")
@example("..")
@example("%2e%2e")
@example("%252E.")
async def test_the_path_of_any_id_ends_with_it(
    open_resolver: OpenResolver, sandbox: RunningSandbox, report_id: str
) -> None:
    """On the wire, and after the normalization of URLs; dot segments are not sent."""
    sandbox.sandbox.calls.clear()
    sent = msgspec.json.encode({"messages": [message(1, report_id=report_id)]})
    messages = read_messages(sent)

    async with open_resolver() as resolver:
        await resolver.resolve(messages.report_keys)

    if report_id in {".", ".."}:
        assert not sandbox.sandbox.calls
        assert messages.invalid_ids == [report_id]
        return
    (path,) = sandbox.sandbox.calls
    normalized = URL(f"http://a{path}").raw_path
    assert unquote(path) == unquote(normalized) == f"/reports/{report_id}"


async def test_a_long_unusable_id_is_cut_in_the_log(
    log_entries: list[EventDict],
) -> None:
    """The length of a log line is bounded."""
    log_invalid_id(show_invalid_id(["x" * 5000]))

    assert log_entries == [
        {
            "event": "report.invalid_id",
            "log_level": "info",
            "report_id": '["' + "x" * 98,
            "attempts": 0,
            "cached": False,
        }
    ]


# --- resolving ----------------------------------------------------------------------


class WrittenReports:
    """Shared reports: none of another process, and a list of those written."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def read(self, keys: Collection[str]) -> None:
        """Read nothing."""

    async def write(self, fetched: Mapping[str, Report | None]) -> None:
        """Note the reports of one resolution."""
        self.keys += fetched


async def test_resolutions_at_the_same_time_share_all_their_reports(
    open_resolver: OpenResolver,
    sandbox: RunningSandbox,
    until: Until,
    log_entries: list[EventDict],
) -> None:
    """That of a month that has ended does not forget those of the current one."""
    written = WrittenReports()
    sandbox.sandbox.faults = always("hang", path="/reports/8")
    async with open_resolver(shared=written) as resolver:
        first = asyncio.create_task(resolver.resolve(["7", "8"]))
        await until(lambda: "7" in [each.get("report_id") for each in log_entries])
        await resolver.resolve(["9"])
        first.cancel()
        await asyncio.wait([first])
    assert sorted(written.keys) == ["7", "9"]


async def test_the_first_failure_stops_the_rest(
    open_resolver: OpenResolver, sandbox: RunningSandbox, until: Until
) -> None:
    """Requests on their way are broken off, and the others are never made."""
    sandbox.sandbox.set_report(1, b"{}")
    sandbox.sandbox.faults = always("hang", path="/reports/2")
    keys = [f"2{number}" for number in range(20)]

    async with open_resolver(concurrency=3) as resolver:
        with pytest.raises(ReportUnavailable) as raised:
            await resolver.resolve([*keys[:2], "1", *keys[2:]])
        assert resolving_tasks() == 0

    assert isinstance(raised.value.__cause__, ContractBroken)
    assert sandbox.sandbox.calls.total() == 3
    await until(lambda: sandbox.sandbox.in_flight == 0)


async def test_tasks_are_bounded_and_cancelled(
    open_resolver: OpenResolver, sandbox: RunningSandbox, until: Until
) -> None:
    """Thousands of reports make few tasks; cancelling ends these and their requests."""
    sandbox.sandbox.faults = Faults(hang=1)
    async with open_resolver(concurrency=3) as resolver:
        task = asyncio.create_task(resolver.resolve([str(n) for n in range(5_000)]))
        await until(lambda: sandbox.sandbox.in_flight == 3)

        assert resolving_tasks() == 3
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert resolving_tasks() == 0
        await until(lambda: sandbox.sandbox.in_flight == 0)
    assert sandbox.sandbox.calls.total() == 3


# --- the cache ----------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(settings: MakeSettings, clock: Clock) -> ReportCache:
    """Three entries; reports live for 100 s, their absence for 10 s."""
    times: dict[str, Any] = {"report_ttl_s": 100.0, "missing_report_ttl_s": 10.0}
    return ReportCache(settings(cache={**times, "max_reports": 3}).cache, clock)


@pytest.mark.parametrize(
    "report, ttl_s", [(LEASE, 100), (None, 10)], ids=["report", "absence"]
)
def test_an_entry_is_young_for_its_own_time(
    cache: ReportCache, clock: Clock, report: Report | None, ttl_s: float
) -> None:
    """A report is believed for one time, its absence for another, to the moment."""
    cache.put("7", report)

    clock.pass_s(ttl_s - 0.001)
    entry = cache.young("7")
    assert entry is not None
    assert entry.report is report
    clock.pass_s(0.001)
    assert cache.young("7") is None, "using an entry does not extend its time"
    cache.put("7", TENANTS)
    entry = cache.young("7")
    assert entry is not None
    assert entry.report is TENANTS


def test_a_report_that_is_gone_has_no_good_copy(cache: ReportCache) -> None:
    """After a 404 the old price is not used again."""
    cache.put("7", LEASE)
    cache.put("7", None)

    assert cache.last_known("7") is None


def test_the_longest_unused_goes_first(cache: ReportCache) -> None:
    """Above `max_reports`, the entry that was used longest ago makes room."""
    for key in ("a", "b", "c"):
        cache.put(key, LEASE)
    assert cache.young("a")
    cache.put("b", TENANTS)

    cache.put("d", LEASE)
    assert [key for key in "abcd" if cache.last_known(key)] == ["a", "b", "d"]
    cache.put("e", LEASE)
    assert [key for key in "abcde" if cache.last_known(key)] == ["b", "d", "e"]
    assert len(cache) == 3
