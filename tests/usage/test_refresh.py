"""Refreshes: the outcome of failures as a caller sees it, and their deadline.

The fault matrix has every failure in every state of the cache.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import pytest
from aiohttp import ClientResponse
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.upstream.bodies import UpstreamResponse, decode
from service.usage import refresh, reports
from service.usage.handlers import SNAPSHOTS
from service.usage.snapshots.process_worker import ProcessWorker
from service.usage.snapshots.worker import InlineWorker, PricingWorker
from tests.clock import LoopTime
from tests.conftest import Hurried, MakeClient, always, message, report
from tests.usage.conftest import Until

MESSAGES = "/messages/current-period"
ATTEMPTS = 3
TRY_S, DEADLINE_S = 10.0, 60.0
IN_ONE_TRY = {"deadline_s": DEADLINE_S, "timeout_s": DEADLINE_S}
UPSTREAM = {"attempts": ATTEMPTS, "retry_after_max_s": 0.0, "max_body_bytes": 100_000}


class Answered(NamedTuple):
    """An answer, and its JSON."""

    response: ClientResponse
    body: Any


Ask = Callable[..., Awaitable[Answered]]


@pytest.fixture
def period(sandbox: RunningSandbox) -> RunningSandbox:
    """Three messages: two of one report, and one of text."""
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_messages(
        [message(1, report_id=7), message(2, "Hi"), message(3, "Hi", report_id="7")]
    )
    return sandbox


@pytest.fixture
def ask(client: MakeClient) -> Ask:
    """Ask for the usage under these settings."""

    async def get_usage(**sections: dict[str, Any]) -> Answered:
        upstream = UPSTREAM | sections.pop("upstream", {})
        response = await (await client(**sections, upstream=upstream)).get("/usage")
        return Answered(response, await response.json(content_type=None))

    return get_usage


async def assert_refused(
    answered: Answered, sandbox: RunningSandbox, code: str, retry_after: str
) -> None:
    """Assert a 503 with a problem document that reveals nothing of the upstream."""
    response, problem = answered
    text = await response.text()
    assert response.status == problem["status"] == 503
    assert response.content_type == "application/problem+json"
    assert response.headers["Retry-After"] == retry_after
    assert response.headers["Cache-Control"] == "no-store"
    assert problem["code"] == code
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert "Usage-Degraded" not in response.headers
    for secret in (sandbox.url, MESSAGES, "/reports", "Traceback", "something broke"):
        assert secret not in text


# --- a report fails -----------------------------------------------------------------


@pytest.mark.parametrize(
    "fault, tries", [("server_error", ATTEMPTS), ("html", ATTEMPTS), ("wrong_type", 1)]
)
async def test_a_failed_report_fails_the_refresh(
    ask: Ask, period: RunningSandbox, fault: str, tries: int
) -> None:
    """By default no price is guessed: retried where that may help, then 503."""
    period.sandbox.faults = always(fault, path="/reports/", retry_after="")

    await assert_refused(await ask(), period, "report_unavailable", "2")
    assert period.sandbox.calls == {MESSAGES: 1, "/reports/7": tries}


async def test_with_text_only_the_failed_are_degraded(
    ask: Ask, period: RunningSandbox
) -> None:
    """Missing reports and healthy ones are not counted."""
    period.sandbox.set_report(8, b"{}")
    ids = [7, 8, 9, 8, None]
    period.sandbox.set_messages(
        [message(n, "Hi", report_id=each) for n, each in enumerate(ids)]
    )

    response, body = await ask(usage={"on_report_error": "text"})

    assert response.headers["Usage-Degraded"] == "2"
    assert [item["credits_used"] for item in body["usage"]] == [61.0] + [1.0] * 4


@pytest.mark.parametrize("path", [MESSAGES, "/reports/"], ids=["messages", "reports"])
@pytest.mark.parametrize(
    "sent, retry_after",
    [("7", "7"), ("0", "1"), ("9" * 400, "3600"), ("soon", "2")],
    ids=["seconds", "zero", "endless", "nonsense"],
)
async def test_retry_after_of_the_upstream_is_passed_on(
    ask: Ask, period: RunningSandbox, path: str, sent: str, retry_after: str
) -> None:
    """`Retry-After` is the upstream's, at most an hour, or a default."""
    period.sandbox.faults = always("unavailable", path=path, retry_after=sent)

    response = (await ask()).response

    assert response.status == 503
    assert response.headers["Retry-After"] == retry_after


# --- time ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", [MESSAGES, "/reports/"], ids=["messages", "reports"])
async def test_a_refresh_ends_with_its_deadline(
    ask: Ask, period: RunningSandbox, until: Until, hurried: Hurried, path: str
) -> None:
    """However patient each try is, a caller waits for `deadline_s` at most."""
    period.sandbox.faults = always("hang", path=path)

    async with hurried(DEADLINE_S, path):
        answered = await ask(upstream=IN_ONE_TRY)

    await assert_refused(answered, period, "deadline_exceeded", "2")
    await until(lambda: period.sandbox.in_flight == 0)


async def test_texts_do_not_price_after_the_deadline(
    ask: Ask, period: RunningSandbox, hurried: Hurried
) -> None:
    """The deadline fails the refresh even where text may price messages."""
    period.sandbox.faults = always("hang", path="/reports/")

    async with hurried(DEADLINE_S, "/reports/"):
        answered = await ask(upstream=IN_ONE_TRY, usage={"on_report_error": "text"})

    await assert_refused(answered, period, "deadline_exceeded", "2")


# --- computing --- -------------------------------------------------------------------

SLOW_S: Final = 3 * TRY_S
IMPATIENT: Final = {"timeout_s": TRY_S, "deadline_s": 10 * SLOW_S, "attempts": ATTEMPTS}
SENSITIVE: Final = {"minimum_calls": 1, "slow_call_s": TRY_S}


@pytest.mark.parametrize("step", ["load", "compute", "answer"])
@pytest.mark.parametrize("worker", [InlineWorker, ProcessWorker])
async def test_slow_computing_counts_as_no_timeout(
    *,
    client: MakeClient,
    period: RunningSandbox,
    loop_time: LoopTime,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
    worker: type[PricingWorker],
    step: str,
) -> None:
    """Starting the worker, decoding and pricing time out no try, and repeat none."""
    work = getattr(worker, step)

    async def slowly(*arguments: Any, **named: Any) -> Any:
        await loop_time.pass_s(SLOW_S)
        return await work(*arguments, **named)

    monkeypatch.setattr(worker, step, slowly)
    usage = {"own_process_bytes": 1 if worker is ProcessWorker else 10**9}
    service = await client(upstream=IMPATIENT, usage=usage, breaker=SENSITIVE)

    for _ in range(2):
        assert (await service.get("/usage")).status == 200

    assert period.sandbox.calls == {MESSAGES: 2, "/reports/7": 2}
    assert_upstream_was_healthy(log_entries)


async def test_slow_decoding_of_a_report_counts_as_no_timeout(
    client: MakeClient,
    period: RunningSandbox,
    loop_time: LoopTime,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
) -> None:
    """A report is decoded after its call has ended."""

    def slowly(response: UpstreamResponse, decoder: Any) -> Any:
        loop_time.skip_s(SLOW_S)
        return decode(response, decoder)

    monkeypatch.setattr(reports, "decode", slowly)
    service = await client(upstream=IMPATIENT, breaker=SENSITIVE)

    for _ in range(2):
        assert (await service.get("/usage")).status == 200

    assert period.sandbox.calls == {MESSAGES: 2, "/reports/7": 2}
    assert_upstream_was_healthy(log_entries)


def assert_upstream_was_healthy(log_entries: list[EventDict]) -> None:
    """Assert that each try has succeeded, and that nothing protected upstream."""
    calls = [each for each in log_entries if each["event"].startswith("upstream.")]
    assert {each["event"] for each in calls} == {"upstream.request"}
    assert {each["http.response.status_code"] for each in calls} <= {200, 304}


# --- what a refresh leaves in memory ------------------------------------------------


@pytest.mark.parametrize("end", ["unchanged", "report", "log"])
async def test_a_refresh_without_a_new_snapshot_leaves_nothing(
    client: MakeClient,
    period: RunningSandbox,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    """Neither loaded messages nor columns stay, whatever it was that ended it."""
    service = await client(upstream=UPSTREAM, cache={"stale_if_error_s": 3_600.0})
    assert service.app is not None
    snapshots = service.app[SNAPSHOTS]
    await service.get("/usage")
    current = snapshots.current
    assert current is not None
    if end == "report":
        period.sandbox.set_messages([message(4, report_id=8)])
        period.sandbox.faults = always("server_error", path="/reports/8")
    if end == "log":
        period.sandbox.set_messages([message(number) for number in range(5)])
        monkeypatch.setattr(refresh, "log_prices", fail)

    await service.get("/usage")

    assert period.sandbox.calls[MESSAGES] == 2
    assert snapshots.current is not None
    assert snapshots.current.snapshot is current.snapshot
    store = snapshots._refresher.workers._inline._store
    assert store._loaded is None
    assert set(store._snapshots) == {current.snapshot.number}
    assert snapshots._refreshing is None


async def fail(_priced: object) -> None:
    """Fail instead of logging."""
    raise OSError
