"""The circuit breaker of the database: open after time-outs, closed after a probe."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final

import pytest
from structlog.typing import EventDict

from service.storage.breaker import MAX_TIMEOUTS, PROBE_INTERVAL_S, StorageBreaker
from service.storage.errors import CircuitOpen, StorageUnavailable
from tests.clock import LoopTime
from tests.metric_samples import Read
from tests.metric_samples import value as sample

Until = Callable[[Callable[[], bool]], Awaitable[None]]
STATE: Final = "copilot_usage_storage_breaker_state"


class Server:
    """A database that answers probes or not, and counts them."""

    def __init__(self) -> None:
        self.is_up = False
        self.probes = 0
        self.ended = 0

    async def probe(self) -> None:
        """Answer a probe."""
        self.probes += 1
        if not self.is_up:
            raise StorageUnavailable("away")

    def end_connections(self) -> None:
        """End the connections in use."""
        self.ended += 1


@pytest.fixture
def server() -> Server:
    """A server that is away."""
    return Server()


@pytest.fixture
async def breaker(server: Server) -> AsyncIterator[StorageBreaker]:
    """A breaker before the server."""
    breaker = StorageBreaker(server.probe, server.end_connections, 5.0)
    yield breaker
    await breaker.close()


def is_open(breaker: StorageBreaker) -> bool:
    """Return whether the circuit refuses."""
    try:
        breaker.check()
    except CircuitOpen:
        return True
    return False


def _has_probes(server: Server, number: int) -> bool:
    return server.probes == number


async def test_it_opens_after_timeouts_in_a_row(
    breaker: StorageBreaker, server: Server, added: Read, log_entries: list[EventDict]
) -> None:
    """A success between them resets the count; the connections end with the opening."""
    for _ in range(MAX_TIMEOUTS - 1):
        breaker.timed_out()
    breaker.succeeded()
    for _ in range(MAX_TIMEOUTS - 1):
        breaker.timed_out()
    assert not is_open(breaker)
    assert server.ended == 0
    breaker.timed_out()
    breaker.timed_out()

    assert is_open(breaker)
    assert server.ended == 1
    assert added("copilot_usage_storage_refused_total") == 1
    assert (sample(STATE, state="open"), sample(STATE, state="closed")) == (1, 0)
    assert [each["event"] for each in log_entries] == ["storage.breaker.opened"]
    assert log_entries[0]["timeouts"] == MAX_TIMEOUTS


async def test_it_closes_after_a_probe(
    breaker: StorageBreaker,
    server: Server,
    until: Until,
    loop_time: LoopTime,
    *,
    log_entries: list[EventDict],
) -> None:
    """It probes until the database answers, and then counts from the start."""
    for _ in range(MAX_TIMEOUTS):
        breaker.timed_out()
    for number in (1, 2):
        await loop_time.pass_s(PROBE_INTERVAL_S)
        await until(partial(_has_probes, server, number))
        assert is_open(breaker)
    server.is_up = True
    await loop_time.pass_s(PROBE_INTERVAL_S)
    await until(lambda: not is_open(breaker))
    breaker.timed_out()

    assert not is_open(breaker)
    assert sample(STATE, state="closed") == 1
    assert [each["event"] for each in log_entries] == [
        "storage.breaker.opened",
        "storage.breaker.closed",
    ]


async def test_calls_that_are_given_up_count_if_nothing_was_answered(
    breaker: StorageBreaker, server: Server
) -> None:
    """An answer since they began shows that they waited for others."""
    started = breaker.now()
    breaker.succeeded()
    for _ in range(MAX_TIMEOUTS):
        breaker.gave_up(started)
    assert not is_open(breaker)

    for _ in range(MAX_TIMEOUTS):
        breaker.gave_up(breaker.now() + 1)
    assert is_open(breaker)
    assert server.ended == 1
