"""Metrics of HTTP requests."""

import asyncio
from typing import Final

import pytest
from aiohttp import ClientSession

from service.app import create_app
from service.observability import http_metrics, metrics
from service.sandbox.server import RunningSandbox
from service.server.runner import listening
from tests.clock import LoopTime
from tests.conftest import MakeSettings, message
from tests.metric_samples import Read, samples, value
from tests.patience import GIVE_UP_S

DURATION: Final = "http_server_request_duration_seconds"


def labels_of(route: str, status: str, method: str = "GET") -> dict[str, str]:
    return {
        "http_request_method": method,
        "http_route": route,
        "http_response_status_code": status,
    }


async def test_requests_are_counted_by_status(added: Read) -> None:
    """Each counts once, in the bucket of its duration and all above."""
    for duration_s in (0.2, 0.0001, 0.005, 0.0051, 100.0):
        http_metrics.request_answered("GET", "/some", 200, duration_s)
    http_metrics.request_answered("GET", "/some", 503, 0.0)

    fine = labels_of("/some", "200")
    counts = {
        bound: added(f"{DURATION}_bucket", **fine, le=bound)
        for bound in ("0.005", "0.01", "0.1", "0.25", "10.0", "+Inf")
    }
    assert counts == {
        "0.005": 2,
        "0.01": 3,
        "0.1": 3,
        "0.25": 4,
        "10.0": 4,
        "+Inf": 5,
    }
    assert added(f"{DURATION}_count", **fine) == 5
    assert added(f"{DURATION}_sum", **fine) == pytest.approx(100.2102)
    assert added(f"{DURATION}_count", **labels_of("/some", "503")) == 1


async def test_unknown_methods_and_paths_share_a_label(added: Read) -> None:
    """Clients cannot create new series."""
    for method in ("BREW", "GETT", "get", "x" * 1000):
        http_metrics.request_answered(method, None, 404, 0.1)
        http_metrics.request_started(method)
        http_metrics.request_ended(method)

    strange = labels_of("_OTHER", "404", "_OTHER")
    assert added(f"{DURATION}_count", **strange) == 4
    methods = {each.labels.get("http_request_method") for each in samples()}
    assert methods <= metrics.METHODS | {"_OTHER", None}


@pytest.mark.parametrize("result", ["hit", "stale", "miss"])
async def test_cache_results_are_counted_with_the_request(
    added: Read, result: str
) -> None:
    """An answer that came from the cache, or could have, counts there too."""
    http_metrics.request_answered("GET", "/usage", 200, 0.1, result)
    http_metrics.request_answered("GET", "/usage", 200, 0.1, result)
    http_metrics.request_answered("GET", "/health/live", 200, 0.1)

    assert added("copilot_usage_cache_results_total", result=result) == 2


async def test_a_tally_counts_as_single_answers_do(added: Read) -> None:
    """Quick answers and slow ones count in their buckets and in the sum."""
    numbers: list[int] = []
    tally = http_metrics.tally_of("/usage/some", 200, also=numbers.append)
    for duration_s in (0.001, 0.005, 0.006, 100.0):
        tally.add(duration_s)

    fine = labels_of("/usage/some", "200")
    counts = {
        bound: added(f"{DURATION}_bucket", **fine, le=bound)
        for bound in ("0.005", "0.01", "10.0", "+Inf")
    }
    assert counts == {"0.005": 2, "0.01": 3, "10.0": 3, "+Inf": 4}
    assert added(f"{DURATION}_sum", **fine) == pytest.approx(100.012)
    assert added("copilot_usage_cache_results_total", result="hit") == 4
    assert added("copilot_usage_answers_total", domain="usage", outcome="ok") == 4
    assert numbers == [4]


async def test_durations_are_written_without_a_scrape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another worker may be scraped."""
    flushed = asyncio.Event()
    flush = http_metrics.flush

    def note() -> None:
        flush()
        flushed.set()

    monkeypatch.setattr(http_metrics, "FLUSH_AFTER_S", 0.0)
    monkeypatch.setattr(http_metrics, "flush", note)
    note()
    flushed.clear()
    http_metrics.request_answered("GET", "/some", 200, 0.1)

    await asyncio.wait_for(flushed.wait(), GIVE_UP_S)


async def test_mixed_answers_are_flushed_together(
    monkeypatch: pytest.MonkeyPatch, loop_time: LoopTime
) -> None:
    """Answers of several kinds, and single ones, are written by one timer."""
    flushes = 0
    flush = http_metrics.flush

    def note() -> None:
        nonlocal flushes
        flushes += 1
        flush()

    monkeypatch.setattr(http_metrics, "flush", note)
    tallies = [http_metrics.tally_of(path, 200) for path in ("/usage/a", "/usage/b")]
    step_s = http_metrics.FLUSH_AFTER_S / 5
    for _ in range(20):
        for tally in tallies:
            tally.add(0.001)
            await loop_time.pass_s(step_s)
        http_metrics.request_answered("GET", "/some", 200, 0.1)
        await loop_time.pass_s(step_s)
    # 60 steps, of which each flush waits for five.
    assert 1 <= flushes <= 60 / 5


def test_without_a_loop_durations_are_written_at_once(
    monkeypatch: pytest.MonkeyPatch, added: Read
) -> None:
    """Without an event loop nothing could write them later."""
    http_metrics.request_answered("GET", "/some", 200, 0.1)

    monkeypatch.setattr(http_metrics, "flush", lambda: None)
    assert added(f"{DURATION}_count", **labels_of("/some", "200")) == 1


def test_active_requests_come_and_go(added: Read) -> None:
    """The gauge counts requests that have started and not ended."""
    http_metrics.request_started("GET")
    http_metrics.request_started("GET")
    http_metrics.request_ended("GET")
    active = added("http_server_active_requests", http_request_method="GET")
    http_metrics.request_ended("GET")

    assert active == 1
    assert added("http_server_active_requests", http_request_method="GET") == 0


async def test_every_answer_is_counted(
    settings: MakeSettings, sandbox: RunningSandbox, added: Read
) -> None:
    """Cached answers, problems and unknown paths are counted."""
    ours = settings(
        server={"port": 0},
        upstream={"base_url": sandbox.url},
        cache={"ttl_s": 60.0},
    )
    sandbox.sandbox.set_messages([message(1)])
    async with listening(create_app(ours), ours.server) as url, ClientSession() as http:
        for path in ("/usage", "/usage", "/usage", "/usage?limit=0", "/no/such/path"):
            async with http.get(url + path) as answer:
                await answer.read()

    counts = {
        (route, status): added(f"{DURATION}_count", **labels_of(route, status))
        for route, status in (("/usage", "200"), ("/usage", "400"), ("_OTHER", "404"))
    }
    assert counts == {("/usage", "200"): 3, ("/usage", "400"): 1, ("_OTHER", "404"): 1}
    results = "copilot_usage_cache_results_total"
    assert [added(results, result=each) for each in ("miss", "hit")] == [1, 2]
    assert value("http_server_active_requests", http_request_method="GET") == 0
