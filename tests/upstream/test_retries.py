"""Retries: what is tried again, how often, and after which wait."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Final

import aiohttp
import aiohttp_retry.client
import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import EventDict

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.settings import Settings
from service.upstream import errors
from service.upstream.client import UpstreamResponse, open_client
from service.upstream.peers import COPILOT, Peer
from service.upstream.retries import (
    RETRIED_ERRORS,
    Backoff,
    parse_retry_after,
    unexpected_status,
)
from tests.conftest import MakeSettings, MockedUpstream
from tests.upstream.conftest import sections

BASE_URL = "http://upstream.example"
PATH = "/messages/current-period"
ATTEMPTS = 3
UNIFORM = "service.upstream.retries.random.uniform"
CLOCK = "service.upstream.retries.time"
NOW_S = 784_111_777.0
"""Sun, 06 Nov 1994 08:49:37 GMT"""


@pytest.fixture
def patient(settings: MakeSettings) -> Settings:
    """Three tries; waits of 1, 2, 4 … seconds up to 5, or up to 8 if asked for."""
    return settings(
        upstream={
            "base_url": BASE_URL,
            "attempts": ATTEMPTS,
            "backoff_base_s": 1.0,
            "backoff_max_s": 5.0,
            "retry_after_max_s": 8.0,
        }
    )


@pytest.fixture
def slept_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, recorded and not slept."""
    slept: list[float] = []

    async def record(wait_s: float) -> None:
        slept.append(wait_s)

    monkeypatch.setattr(aiohttp_retry.client, "asyncio", SimpleNamespace(sleep=record))
    return slept


@pytest.fixture
def _longest_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UNIFORM, lambda _low, high: high)


def allow(_failure: errors.UpstreamError) -> None:
    """Let every retry be made."""


def tries_of(mocked: MockedUpstream) -> int:
    return sum(map(len, mocked.requests.values()))


async def fail(patient: Settings) -> errors.UpstreamError:
    """Fetch what cannot be had."""
    async with open_client(*sections(patient)) as client:
        with pytest.raises(errors.UpstreamError) as raised:
            await client.fetch(PATH)
    return raised.value


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_a_status_that_may_pass_is_tried_again(
    patient: Settings,
    mocked_upstream: MockedUpstream,
    slept_s: list[float],
    status: int,
) -> None:
    """Where upstream is overloaded or being restarted, all tries are made."""
    mocked_upstream.get(BASE_URL + PATH, status=status, repeat=True)

    error = await fail(patient)

    assert isinstance(error, errors.UnexpectedStatus)
    assert (error.status, error.attempts) == (status, ATTEMPTS)
    assert tries_of(mocked_upstream) == ATTEMPTS
    assert len(slept_s) == ATTEMPTS - 1


@pytest.mark.parametrize(
    "status", [201, 204, 206, 301, 302, 304, 400, 401, 403, 404, 409, 410, 451, 501]
)
async def test_a_status_that_stays_is_tried_once(
    patient: Settings,
    mocked_upstream: MockedUpstream,
    slept_s: list[float],
    status: int,
) -> None:
    """What would be answered the same way again is not asked again."""
    mocked_upstream.get(BASE_URL + PATH, status=status, repeat=True)

    error = await fail(patient)

    assert isinstance(error, errors.UnexpectedStatus)
    assert (error.status, error.attempts) == (status, 1)
    assert tries_of(mocked_upstream) == 1
    assert slept_s == []


@pytest.mark.usefixtures("slept_s")
@pytest.mark.parametrize(
    "foreign, ours, tries",
    [
        (aiohttp.ServerDisconnectedError(), errors.ConnectionDropped, ATTEMPTS),
        (aiohttp.ClientOSError(104, "reset"), errors.ConnectionDropped, ATTEMPTS),
        (BrokenPipeError(), errors.ConnectionDropped, ATTEMPTS),
        (aiohttp.ConnectionTimeoutError(), errors.TryTimedOut, ATTEMPTS),
        (aiohttp.SocketTimeoutError(), errors.TryTimedOut, ATTEMPTS),
        (TimeoutError(), errors.TryTimedOut, ATTEMPTS),
        (ConnectionRefusedError(), errors.ConnectionDropped, ATTEMPTS),
        (aiohttp.ClientPayloadError("cut off"), errors.MalformedBody, ATTEMPTS),
        (aiohttp.InvalidURL("nonsense"), errors.BadRequestUrl, 1),
    ],
    ids=lambda value: (
        getattr(type(value), "__name__", None) if isinstance(value, Exception) else None
    ),
)
async def test_an_error_is_tried_again_by_its_class(
    patient: Settings,
    mocked_upstream: MockedUpstream,
    foreign: Exception,
    ours: type[errors.UpstreamError],
    tries: int,
) -> None:
    """Lost connections and broken bodies are tried again, a bad address is not."""
    mocked_upstream.get(BASE_URL + PATH, exception=foreign, repeat=True)

    error = await fail(patient)

    assert type(error) is ours
    assert error.attempts == tries_of(mocked_upstream) == tries


async def test_the_first_success_ends_the_tries(
    patient: Settings, mocked_upstream: MockedUpstream, slept_s: list[float]
) -> None:
    """A try that succeeds is the last, and says how many there were."""
    mocked_upstream.get(BASE_URL + PATH, status=503)
    mocked_upstream.get(BASE_URL + PATH, payload={"fine": True})

    async with open_client(*sections(patient)) as client:
        fetched = await client.fetch(PATH)

    assert fetched == UpstreamResponse(bytearray(b'{"fine": true}'), 2)
    assert len(slept_s) == 1


async def test_a_body_larger_than_a_buffer_is_read_whole(
    patient: Settings, mocked_upstream: MockedUpstream
) -> None:
    """Bodies over 64 KiB come through the mock as they do through a socket."""
    body = b'["' + b"x" * 300_000 + b'"]'
    mocked_upstream.get(BASE_URL + PATH, body=body)

    async with open_client(*sections(patient)) as client:
        fetched = await client.fetch(PATH)

    assert fetched.body == bytearray(body)


def test_only_questions_are_repeated(patient: Settings) -> None:
    """No request that may change something upstream is sent twice; POST only asks."""
    options = Backoff(patient.upstream, check_retry=allow)

    assert options.methods == {"GET", "POST"}
    assert options.retry_all_server_errors is False
    assert not options.statuses


# --- waits --------------------------------------------------------------------------


@pytest.mark.usefixtures("_longest_jitter")
def test_the_bound_doubles_up_to_the_cap(patient: Settings) -> None:
    """No wait is longer than base × 2ⁿ, and none longer than the cap."""
    backoff = Backoff(patient.upstream, check_retry=allow)

    waits_s = [backoff.get_timeout(attempt) for attempt in range(1, 6)]

    assert waits_s == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_the_jitter_is_full(patient: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are spread from nothing to the bound, so that callers do not march."""
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.25

    monkeypatch.setattr(UNIFORM, draw)

    assert Backoff(patient.upstream, check_retry=allow).get_timeout(2) == 0.25
    assert drawn == [(0, 2.0)]


@pytest.mark.parametrize(
    "retry_after, wait_s",
    [
        ("3", 3.0),
        ("0", 0.0),
        (" 3 ", 3.0),
        ("8", 8.0),
        ("9", 8.0),
        ("9" * 400, 8.0),
        ("Sun, 06 Nov 1994 08:49:41 GMT", 4.0),
        ("Sun, 06 Nov 1994 08:49:31 GMT", 0.0),
        ("Mon, 06 Nov 2094 08:49:37 GMT", 8.0),
        ("-5", 1.0),
        ("1.5", 1.0),
        ("soon", 1.0),
        ("", 1.0),
        (None, 1.0),
    ],
    ids=lambda value: repr(value)[:12],
)
@pytest.mark.usefixtures("_longest_jitter")
def test_retry_after_decides_the_wait(
    patient: Settings,
    monkeypatch: pytest.MonkeyPatch,
    retry_after: str | None,
    wait_s: float,
) -> None:
    """Upstream's wish is heeded up to the limit; nonsense counts as no wish."""
    monkeypatch.setattr(CLOCK, SimpleNamespace(time=lambda: NOW_S))
    backoff = Backoff(patient.upstream, check_retry=allow)
    backoff.failure = unexpected_status(503, retry_after)

    assert backoff.get_timeout(1) == wait_s


@pytest.mark.parametrize(
    "date",
    [
        "Sun, 06 Nov 1994 08:49:47 GMT",
        "Sunday, 06-Nov-94 08:49:47 GMT",
        "Sun Nov  6 08:49:47 1994",
    ],
    ids=["IMF-fixdate", "RFC 850", "asctime"],
)
def test_every_form_of_a_date_is_gmt(
    monkeypatch: pytest.MonkeyPatch, date: str
) -> None:
    """All three forms of RFC 9110 are read alike wherever the machine stands."""
    monkeypatch.setattr(CLOCK, SimpleNamespace(time=lambda: NOW_S))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert parse_retry_after(date) == 10.0
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.one_of(st.text(), st.text("0123456789 :,-+SunovNGMT.")))
def test_no_retry_after_breaks_the_client(value: str) -> None:
    """Whatever upstream sends is a wait of zero or more seconds, or no wish."""
    wait_s = parse_retry_after(value)

    assert wait_s is None or wait_s >= 0


@pytest.mark.usefixtures("_longest_jitter")
async def test_the_waits_are_those_that_are_logged(
    patient: Settings,
    mocked_upstream: MockedUpstream,
    slept_s: list[float],
    log_entries: list[EventDict],
) -> None:
    """The log tells each wait and its reason, and the loop waits just so long."""
    mocked_upstream.get(BASE_URL + PATH, status=503, headers={"Retry-After": "7"})
    mocked_upstream.get(BASE_URL + PATH, exception=TimeoutError())
    mocked_upstream.get(BASE_URL + PATH, payload={})

    async with open_client(*sections(patient)) as client:
        await client.fetch(PATH)

    waits = [entry for entry in log_entries if entry["event"] == "upstream.retry"]
    assert slept_s == [7.0, 2.0]
    assert waits == [
        {
            "event": "upstream.retry",
            "log_level": "warning",
            "upstream": "copilot",
            "wait_s": wait_s,
            "reason": reason,
        }
        for wait_s, reason in [(7.0, "503"), (2.0, "TryTimedOut")]
    ]


# --- tries, counted by the other side -----------------------------------------------


@pytest.fixture
async def keeping(sandbox: RunningSandbox) -> AsyncIterator[ClientSession]:
    """An ordinary session that keeps a connection to the sandbox."""
    async with ClientSession(sandbox.url) as session:
        await (await session.get(PATH)).read()
        yield session


async def test_an_ordinary_session_resends_silently(
    sandbox: RunningSandbox, keeping: ClientSession
) -> None:
    """The danger is real: on a kept connection aiohttp makes tries of its own."""
    sandbox.sandbox.faults = Faults(reset=1)
    before = sandbox.sandbox.calls[PATH]

    with pytest.raises(aiohttp.ClientError):
        await keeping.get(PATH)

    assert sandbox.sandbox.calls[PATH] - before > 1


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_attempts_are_all_tries_even_on_a_kept_connection(
    settings: MakeSettings, sandbox: RunningSandbox, attempts: int
) -> None:
    """Upstream gets as many requests as are allowed, whoever would resend."""
    made = settings(
        upstream={"base_url": sandbox.url, "attempts": attempts, "concurrency": 1}
    )
    async with open_client(*sections(made)) as client:
        await client.fetch(PATH)
        sandbox.sandbox.faults = Faults(reset=1)
        before = sandbox.sandbox.calls[PATH]

        with pytest.raises(errors.ConnectionDropped) as raised:
            await client.fetch(PATH)

    assert sandbox.sandbox.calls[PATH] - before == attempts
    assert raised.value.attempts == attempts


async def test_tries_of_different_calls_do_not_mix(
    settings: MakeSettings, sandbox: RunningSandbox
) -> None:
    """Each call has its own count of tries, however many run at once."""
    made = settings(upstream={"base_url": sandbox.url, "attempts": 2})
    sandbox.sandbox.faults = Faults(server_error=1)
    async with open_client(*sections(made)) as client:
        fetches = [client.fetch(f"/reports/{n}") for n in range(9)]
        failures = await asyncio.gather(*fetches, return_exceptions=True)

    assert {getattr(failure, "attempts", None) for failure in failures} == {2}
    assert set(sandbox.sandbox.calls.values()) == {2}


# --- being shut out -----------------------------------------------------------------

SHUTTING: Final = Peer("other", refusals=frozenset({403, 429}))


@pytest.mark.parametrize(
    "peer, status, is_shut_out, is_repeated",
    [
        (SHUTTING, 403, True, False),
        (SHUTTING, 429, True, False),
        (SHUTTING, 503, False, True),
        (SHUTTING, 404, False, False),
        (COPILOT, 403, False, False),
        (COPILOT, 429, False, True),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_who_is_shut_out_does_not_insist(
    peer: Peer, status: int, *, is_shut_out: bool, is_repeated: bool
) -> None:
    """By what statuses a peer shuts us out is its own; none of them is repeated."""
    error = unexpected_status(status, "7", peer)

    assert isinstance(error, errors.ShutOut) is is_shut_out
    assert isinstance(error, RETRIED_ERRORS) is is_repeated
    assert (error.status, error.retry_after_s) == (status, 7.0)


async def test_one_call_is_made_where_we_are_shut_out(
    settings: MakeSettings, sandbox: RunningSandbox
) -> None:
    """However many tries are allowed."""
    made = settings(upstream={"base_url": sandbox.url, "attempts": 5})
    sandbox.sandbox.faults = Faults(too_many_requests=1)
    async with open_client(*sections(made), peer=SHUTTING) as client:
        with pytest.raises(errors.ShutOut):
            await client.fetch(PATH)

    assert sandbox.sandbox.calls == {PATH: 1}
