"""Counts of a running service by its real `/metrics`, with one worker and with two."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.keys.store import SANDBOX_KEY
from tests.alerts.prometheus import ALERTS_FILE
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, Running, ask_once, running

DURATION: Final = "http_server_request_duration_seconds_count"
EVENTS: Final = f"POST /events|X-API-Key: {SANDBOX_KEY}|Content-Type: application/json"
LONG: Final = "x" * 9_000
REQUESTS: Final = [
    *[("GET\r\n\r\n", "_OTHER _OTHER 400")] * 60,
    ("GET /|no colon", "_OTHER _OTHER 400"),
    (f"GET /{LONG}|", "_OTHER _OTHER 414"),
    (f"GET /|X: {LONG}", "_OTHER _OTHER 431"),
    ("GET / HTTP/1.1\r\n\r\n", "_OTHER _OTHER 400"),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "GET _OTHER 505"),
    ("GET /|Expect: x", "GET _OTHER 417"),
    ("GET / HT", "_OTHER _OTHER 408"),
    (f"{EVENTS}|Content-Length: 9", "POST /events 408"),
    (f"{EVENTS}|Content-Length: 99999", "POST /events 413"),
    ("GET /no|", "GET _OTHER 404"),
]
"""Requests, and under which method, route and status each is counted.

`GET /|X: y` is short for a whole request with this header.
"""
SELECTOR: Final = re.compile(r"(\w+_(?:total|count|bucket))\{(.*?)\}")
MATCHER: Final = re.compile(r'(\w+)(=~|!~|!=|=)"(.*?)"')
Samples = list[tuple[str, dict[str, str], float]]

each_number_of_workers = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture
def service(workers: int, tmp_path: Path) -> Iterator[Running]:
    """A running service with all domains, whose clients have little time."""
    with running(
        tmp_path / "log",
        f"--workers={workers}",
        events__enabled=True,
        events__body_timeout_s=0.2,
        events__max_body_bytes=1_000,
        server__header_timeout_s=0.2,
        storage__url=f"sqlite+aiosqlite:///{tmp_path / 'service.db'}",
    ) as running_service:
        yield running_service


async def scrape(service: Running) -> Samples:
    """Return the name, the labels and the value of all samples of the service."""
    body = (await ask_once(service.port, "/metrics")).body.decode()
    families = text_string_to_metric_families(body)
    return [each[:3] for family in families for each in family.samples]


async def send(service: Running, request: str) -> None:
    """Send a request, and read its answer."""
    line, bar, headers = request.partition("|")
    if bar:
        lines = [f"{line} HTTP/1.1", "Host: a", *filter(None, headers.split("|"))]
        request = "\r\n".join(lines) + "\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(request.encode())
    async with asyncio.timeout(GIVE_UP_S):
        assert await reader.readuntil(b"\r\n\r\n")
    writer.close()


@each_number_of_workers
async def test_every_request_is_counted(service: Running) -> None:
    """Also those that the parser refuses, and those that are not complete in time."""
    for request, _ in REQUESTS:
        await send(service, request)

    expected, counted = Counter(labels for _, labels in REQUESTS), Counter[str]()
    async with asyncio.timeout(GIVE_UP_S):
        # Another worker writes its counts twice a second.
        while counted != expected:
            await asyncio.sleep(LOOK_AGAIN_S)
            counted = Counter()
            for name, labels, value in await scrape(service):
                if name == DURATION and labels["http_route"] != "/metrics" and value:
                    method, status, route = (labels[each] for each in sorted(labels))
                    counted[f"{method} {route} {status}"] = int(value)


@each_number_of_workers
async def test_series_of_alerts_exist_from_the_start(service: Running) -> None:
    """Each selector of an alert finds a counter at 0, and so sees the first event."""
    found = await scrape(service)
    for name, matchers in sorted(selectors()):
        series = [(labels, value) for each, labels, value in found if each == name]
        chosen = {value for labels, value in series if selects(matchers, labels)}
        assert chosen == {0.0}, (name, matchers)


def selectors() -> set[tuple[str, str]]:
    """Return the counters that rules use, and their matchers."""
    groups = yaml.safe_load(ALERTS_FILE.read_bytes())["groups"]
    rules = "\n".join(rule["expr"] for group in groups for rule in group["rules"])
    # Refused requests have too many statuses, and the alert needs a quarter of an hour.
    return {each for each in SELECTOR.findall(rules) if '"4.."' not in each[1]}


def selects(matchers: str, labels: dict[str, str]) -> bool:
    """Return whether the matchers of a selector choose these labels."""
    for name, operator, pattern in MATCHER.findall(matchers):
        regex = pattern if "~" in operator else re.escape(pattern)
        is_match = re.fullmatch(regex, labels.get(name, "")) is not None
        if name != "job" and is_match == operator.startswith("!"):
            return False
    return True
