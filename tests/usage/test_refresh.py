"""Refreshes: which calls one makes, the outcome of each failure, and their deadline.

The failures are those of the contract's table, each played by a real upstream and seen
as a caller sees it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import unused_port
from structlog.typing import EventDict

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.upstream.client import UpstreamResponse, decode
from service.usage import reports
from service.usage.snapshots.messages import MAX_INVALID_IDS_LOGGED
from service.usage.snapshots.worker import InlineWorker, ProcessWorker, Worker
from tests.clock import LoopTime
from tests.conftest import Hurried, MakeClient, always, message, report

MESSAGES = "/messages/current-period"
ATTEMPTS = 3
TRY_S, DEADLINE_S = 10.0, 60.0
IN_ONE_TRY = {"deadline_s": DEADLINE_S, "timeout_s": 2 * DEADLINE_S}
UPSTREAM = {"attempts": ATTEMPTS, "retry_after_max_s": 0.0, "max_body_bytes": 100_000}

# How each failure shows: the switch of the sandbox, and how often it is tried.
RETRIED = [
    "server_error",
    "unavailable",
    "too_many_requests",
    "reset",
    "truncated",
    "html",
]
NOT_RETRIED = ["missing_field", "wrong_type", "redirect", "gzip_bomb", "huge_body"]
FAULTS = [
    *((fault, ATTEMPTS) for fault in RETRIED),
    *((fault, 1) for fault in NOT_RETRIED),
]

Until = Callable[[Callable[[], bool]], Awaitable[None]]


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
    """503, a problem document, and nothing of upstream."""
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


# --- one message fails soft ---------------------------------------------------------


@pytest.mark.parametrize(
    "report_id, event",
    [(9, "report.missing"), (None, "report.invalid_id"), (1.5, "report.invalid_id")],
    ids=["404", "null", "float"],
)
async def test_a_missing_report_costs_the_text(
    ask: Ask,
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
    report_id: object,
    event: str,
) -> None:
    """404 and unusable ids fall back to the text, are logged, and degrade nothing."""
    sandbox.sandbox.set_messages([message(1, "a", report_id=report_id)])

    response, body = await ask()

    assert response.status == 200
    assert body["usage"][0]["credits_used"] == 2.0
    assert "report_name" not in body["usage"][0]
    assert "Usage-Degraded" not in response.headers
    assert [e["event"] for e in log_entries if e["event"].startswith("report.")] == [
        event
    ]


# --- a report fails -----------------------------------------------------------------


@pytest.mark.parametrize("fault, tries", FAULTS)
async def test_a_failed_report_fails_the_refresh(
    ask: Ask, period: RunningSandbox, fault: str, tries: int
) -> None:
    """By default no price is guessed: retried where that may help, then 503."""
    period.sandbox.faults = always(fault, path="/reports/", retry_after="")

    await assert_refused(await ask(), period, "report_unavailable", "2")
    assert period.sandbox.calls == {MESSAGES: 1, "/reports/7": tries}


@pytest.mark.parametrize("fault, tries", FAULTS)
async def test_text_may_stand_in_for_a_failed_report(
    ask: Ask, period: RunningSandbox, fault: str, tries: int
) -> None:
    """Where configured, text prices the messages, and the answer says how many."""
    period.sandbox.faults = always(fault, path="/reports/", retry_after="")

    response, body = await ask(usage={"on_report_error": "text"})

    assert response.status == 200
    assert response.headers["Usage-Degraded"] == "2"
    assert [item.get("report_name") for item in body["usage"]] == [None] * 3
    assert period.sandbox.calls == {MESSAGES: 1, "/reports/7": tries}


async def test_a_report_that_times_out_fails_alike(
    ask: Ask, period: RunningSandbox, hurried: Hurried
) -> None:
    """A report that hangs is tried as often as one that answers 500."""
    period.sandbox.faults = always("hang", path="/reports/")

    async with hurried(TRY_S, "/reports/"):
        answered = await ask(upstream={"timeout_s": TRY_S, "deadline_s": DEADLINE_S})

    await assert_refused(answered, period, "report_unavailable", "2")
    assert period.sandbox.calls == {MESSAGES: 1, "/reports/7": ATTEMPTS}


@pytest.mark.parametrize("fault", RETRIED)
async def test_a_failure_that_passes_is_not_noticed(
    ask: Ask, period: RunningSandbox, fault: str
) -> None:
    """A report that comes at a later try prices its messages as ever."""
    period.sandbox.faults = always(fault, path="/reports/", times=ATTEMPTS - 1)

    response, body = await ask()

    assert response.status == 200
    assert "Usage-Degraded" not in response.headers
    assert [item["credits_used"] for item in body["usage"]] == [61.0, 1.0, 61.0]


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


# --- the messages fail --------------------------------------------------------------


@pytest.mark.parametrize("fault, tries", [*FAULTS, ("not_found", 1)])
async def test_failed_messages_fail_the_refresh(
    ask: Ask, period: RunningSandbox, fault: str, tries: int
) -> None:
    """Without messages there is nothing to price: 503, and no report is asked for."""
    period.sandbox.faults = always(fault, path=MESSAGES, retry_after="")

    answered = await ask(usage={"on_report_error": "text"})

    await assert_refused(answered, period, "messages_unavailable", "2")
    assert period.sandbox.calls == {MESSAGES: tries}


@pytest.mark.parametrize(
    "broken",
    [
        {"id": 1, "text": "x"},
        {"id": 1, "timestamp": "2024-04-29"},
        {"text": "x", "timestamp": "2024-04-29"},
        {"id": "1", "text": "x", "timestamp": "2024-04-29"},
        {"id": 1.5, "text": "x", "timestamp": "2024-04-29"},
        {"id": 1, "text": None, "timestamp": "2024-04-29"},
        {"id": 1, "text": "x", "timestamp": 1714348800},
        {"id": 1, "text": "x", "timestamp": "2024-02-30"},
        {"id": 1, "text": "x", "timestamp": ""},
        {"id": 2**63, "text": "x", "timestamp": "2024-04-29"},
        "message",
        None,
    ],
    ids=str,
)
async def test_one_broken_message_fails_the_refresh(
    ask: Ask, sandbox: RunningSandbox, broken: object
) -> None:
    """A bill that leaves one out would be silently wrong."""
    messages: list[Any] = [message(0), broken]
    sandbox.sandbox.set_messages(messages)

    await assert_refused(await ask(), sandbox, "messages_unavailable", "2")
    assert sandbox.sandbox.calls == {MESSAGES: 1}


async def test_an_upstream_that_is_not_there(ask: Ask, sandbox: RunningSandbox) -> None:
    """A refused connection is answered like any other failure."""
    answered = await ask(upstream={"base_url": f"http://127.0.0.1:{unused_port()}"})

    await assert_refused(answered, sandbox, "messages_unavailable", "2")


@pytest.mark.parametrize("path", [MESSAGES, "/reports/"], ids=["messages", "reports"])
@pytest.mark.parametrize(
    "asked, retry_after",
    [("7", "7"), ("0", "1"), ("9" * 400, "3600"), ("soon", "2")],
    ids=["seconds", "zero", "endless", "nonsense"],
)
async def test_upstream_s_wish_is_passed_on(
    ask: Ask, period: RunningSandbox, path: str, asked: str, retry_after: str
) -> None:
    """Our `Retry-After` is upstream's, within an hour; else a default."""
    period.sandbox.faults = always("unavailable", path=path, retry_after=asked)

    response = (await ask()).response

    assert response.status == 503
    assert response.headers["Retry-After"] == retry_after


async def test_after_a_failure_the_next_request_is_fine(
    client: MakeClient, period: RunningSandbox
) -> None:
    """A failed refresh leaves nothing behind that could spoil the next."""
    period.sandbox.faults = Faults(server_error=1)
    service = await client(upstream=UPSTREAM)
    assert (await service.get("/usage")).status == 503

    period.sandbox.faults = Faults()

    assert (await service.get("/usage")).status == 200


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


async def test_waits_count_against_the_deadline(
    ask: Ask, period: RunningSandbox, hurried: Hurried
) -> None:
    """An upstream that asks for patience does not get more than there is."""
    period.sandbox.faults = always("unavailable", retry_after="60")
    patient = {"deadline_s": 50.0, "retry_after_max_s": 60.0}

    async with hurried(50.0):
        answered = await ask(upstream=patient)

    await assert_refused(answered, period, "deadline_exceeded", "2")
    assert period.sandbox.calls == {MESSAGES: 1}


async def test_text_does_not_stand_in_for_time(
    ask: Ask, period: RunningSandbox, hurried: Hurried
) -> None:
    """The deadline fails the refresh even where text may price messages."""
    period.sandbox.faults = always("hang", path="/reports/")

    async with hurried(DEADLINE_S, "/reports/"):
        answered = await ask(upstream=IN_ONE_TRY, usage={"on_report_error": "text"})

    await assert_refused(answered, period, "deadline_exceeded", "2")


async def test_a_refresh_leaves_no_task(
    client: MakeClient, period: RunningSandbox, hurried: Hurried
) -> None:
    """When the answer is there, nothing of the refresh is still running."""
    service = await client(upstream=IN_ONE_TRY)
    period.sandbox.faults = always("hang", path="/reports/")
    async with hurried(DEADLINE_S, "/reports/"):
        await service.get("/usage")

    names = {getattr(t.get_coro(), "__qualname__", "") for t in asyncio.all_tasks()}
    ours = ("ReportResolver.", "_Call.")
    assert not [name for name in names if name.startswith(ours)]


# --- our own work -------------------------------------------------------------------

SLOW_S: Final = 3 * TRY_S
IMPATIENT: Final = {"timeout_s": TRY_S, "deadline_s": 10 * SLOW_S, "attempts": ATTEMPTS}
SENSITIVE: Final = {"minimum_calls": 1, "slow_call_s": TRY_S}


@pytest.mark.parametrize("step", ["load", "compute", "answer"])
@pytest.mark.parametrize("worker", [InlineWorker, ProcessWorker])
async def test_slow_work_of_ours_is_not_charged_to_upstream(
    *,
    client: MakeClient,
    period: RunningSandbox,
    loop_time: LoopTime,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
    worker: type[Worker],
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
    assert_upstream_was_well(log_entries)


async def test_slow_decoding_of_a_report_is_not_charged_to_upstream(
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
    assert_upstream_was_well(log_entries)


def assert_upstream_was_well(log_entries: list[EventDict]) -> None:
    """Assert that each try has succeeded, and that nothing protected upstream."""
    told = [each for each in log_entries if each["event"].startswith("upstream.")]
    assert {each["event"] for each in told} == {"upstream.request"}
    assert {each["http.response.status_code"] for each in told} <= {200, 304}


# --- logs ---------------------------------------------------------------------------


async def test_unusable_ids_do_not_flood_the_log(
    ask: Ask, sandbox: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """A period of nothing but bad ids logs the first of them."""
    count = MAX_INVALID_IDS_LOGGED + 50
    sandbox.sandbox.set_messages([message(n, report_id=None) for n in range(count)])

    await ask()

    events = [entry["event"] for entry in log_entries]
    assert events.count("report.invalid_id") == MAX_INVALID_IDS_LOGGED


async def test_a_failed_refresh_is_logged_with_its_reason(
    ask: Ask, period: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """The log tells what the caller is not told."""
    period.sandbox.faults = Faults(not_found=1)
    await ask()

    (failed,) = [e for e in log_entries if e["event"] == "usage.refresh.failed"]
    assert failed.pop("duration_s") >= 0
    for name in ("request_id", "refresh_id", "revision"):
        assert failed.pop(name)
    assert failed == {
        "event": "usage.refresh.failed",
        "log_level": "error",
        "plan": "text-rules/1",
        "error.type": "MessagesUnavailable",
        "reason": "upstream answered 404",
    }
