"""Retries: what is tried again, how often, and after which wait."""

import time
from types import SimpleNamespace
from typing import Final

import aiohttp
import aiohttp_retry.client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import EventDict

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.settings import Settings
from service.upstream import errors
from service.upstream.client import open_client
from service.upstream.retries import (
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


PASSING: Final = (408, 425, 429, 500, 502, 503, 504)
STAYING: Final = (201, 204, 206, 301, 302, 304, 400, 401, 403, 404, 409, 410, 451, 501)


@pytest.mark.parametrize("status", [*PASSING, *STAYING])
async def test_a_status_that_may_pass_is_tried_again(
    patient: Settings,
    mocked_upstream: MockedUpstream,
    slept_s: list[float],
    status: int,
) -> None:
    """Only statuses of an overloaded or restarting upstream are retried."""
    mocked_upstream.get(BASE_URL + PATH, status=status, repeat=True)
    tries = ATTEMPTS if status in PASSING else 1

    error = await fail(patient)

    assert isinstance(error, errors.UnexpectedStatus)
    assert (error.status, error.attempts) == (status, tries)
    assert tries_of(mocked_upstream) == tries
    assert len(slept_s) == tries - 1


@pytest.mark.usefixtures("slept_s")
@pytest.mark.parametrize(
    "foreign, ours, tries",
    [
        (aiohttp.ServerDisconnectedError(), errors.ConnectionDropped, ATTEMPTS),
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


# --- waits --------------------------------------------------------------------------


def test_the_jitter_is_full(patient: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are spread from nothing to a bound, which doubles up to the maximum."""
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.25

    monkeypatch.setattr(UNIFORM, draw)
    backoff = Backoff(patient.upstream, check_retry=allow)

    assert {backoff.get_timeout(attempt) for attempt in range(1, 6)} == {0.25}
    assert drawn == [(0, bound_s) for bound_s in (1.0, 2.0, 4.0, 5.0, 5.0)]


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
        ("1.5", 1.5),
        ("2, 3", 3.0),
        ("2,", 1.0),
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
    backoff.failure = unexpected_status(503)
    if retry_after is not None:
        backoff.failure.retry_after_s = parse_retry_after(retry_after)

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


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_attempts_are_all_tries_even_on_a_kept_connection(
    settings: MakeSettings, sandbox: RunningSandbox, attempts: int
) -> None:
    """Upstream gets no more requests than allowed, although aiohttp would resend."""
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
