"""Console form of the log: one screen for the first request, and lines for people."""

import math
import os
import pty
import re
import select
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Final

import pytest
import structlog
from structlog.contextvars import bound_contextvars

from service.observability import log_output, logs
from service.observability.console import MAX_REQUESTS
from tests.patience import GIVE_UP_S
from tests.running import COMMAND, ROOT, running

ROWS: Final = 24
COLUMNS: Final = 100
MESSAGES: Final = 110
STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")
OMITTED: Final = "see=COPILOT_USAGE_LOGGING__FORMAT=json"

Printed = Callable[[], list[str]]


def get_usage(port: int) -> None:
    """Read the whole answer of `/usage`."""
    url = f"http://127.0.0.1:{port}/usage"
    with urllib.request.urlopen(url, timeout=GIVE_UP_S) as answer:
        answer.read()


# --- the first request of a service -------------------------------------------------


@pytest.fixture(scope="module")
def screen() -> str:
    """All that a terminal receives, from the start to the end of the first request."""
    ours, theirs = pty.openpty()
    environment = {"COPILOT_USAGE_EVENTS__ENABLED": "false", "TERM": "xterm"}
    with subprocess.Popen(  # noqa: S603
        COMMAND,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, **environment},
    ) as process:
        os.close(theirs)
        try:
            shown = read_until(ours, rb"Listening on http://127\.0\.0\.1:(\d+),")
            port = int(shown[:-1].rpartition(b":")[2])
            # The terminal is read meanwhile: a full one would stop the service.
            asking = Thread(target=get_usage, args=[port])
            asking.start()
            shown += read_until(ours, rb"http\.request.*\n")
            asking.join()
        finally:
            process.kill()
            os.close(ours)
    return shown.decode()


def read_until(terminal: int, pattern: bytes) -> bytes:
    """Read a terminal until the pattern has come; fail where nothing more comes."""
    shown = b""
    while not re.search(pattern, shown):
        readable, _, _ = select.select([terminal], [], [], GIVE_UP_S)
        assert readable, shown
        shown += os.read(terminal, 1)
    return shown


def rows_of(shown: str) -> int:
    """The rows that text takes on a terminal of 100 columns."""
    lines = STYLE.sub("", shown).splitlines()
    return sum(max(1, math.ceil(len(line) / COLUMNS)) for line in lines)


def test_the_first_request_fits_on_a_screen(screen: str) -> None:
    """Start and one request of 110 messages print at most 24 rows of 100 columns."""
    assert rows_of(screen) <= ROWS
    text = STYLE.sub("", screen)
    assert re.findall(r"credits\.rated +message_id=(\d+) ", text) == ["1000", "1001"]
    assert "base=1.0 characters=3.3 words=1.7 third_vowels=1.8" in text
    assert f"messages={MESSAGES - 2} other_lines=16 {OMITTED}" in text


def test_json_has_every_step(tmp_path: Path) -> None:
    """The same request logs the steps of all its messages for programs."""
    with running(tmp_path / "log", server__drain_s=0) as service:
        get_usage(service.port)
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(GIVE_UP_S)
        rated = service.events("credits.rated")
        steps = Counter(each["message_id"] for each in service.events("credits.step"))

    expected = {each["message_id"]: 1 if "report_id" in each else 7 for each in rated}
    assert len(rated) == MESSAGES
    assert steps == expected


# --- single lines -------------------------------------------------------------------


@pytest.fixture
def printed(capfd: pytest.CaptureFixture[str]) -> Printed:
    """The console's lines since the last call, without their time."""
    logs.configure("debug", "console")

    def lines() -> list[str]:
        log_output.flush()
        written = capfd.readouterr().out.splitlines()
        return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in written]

    return lines


def log_price(message_id: int) -> None:
    """Log a price of two steps, of which one changes nothing."""
    log = structlog.get_logger().bind(message_id=message_id)
    log.info("credits.step", plan="a/1", step="base", credits=1.0, total=1.0)
    log.info("credits.step", plan="a/1", step="palindrome", credits=0.0, total=1.0)
    log.info("credits.rated", source="text", credits_used=1.0)


def rated(message_id: int) -> str:
    """The line of such a price."""
    values = f"message_id={message_id} source=text credits_used=1.0 base=1.0"
    return f"credits.rated    {values}"


def test_a_price_is_one_line(printed: Printed) -> None:
    """It has the steps that change the price; nothing is omitted below three."""
    log_price(1)
    log_price(2)
    structlog.get_logger().info("usage.refresh.finished", messages=2)

    assert printed() == [rated(1), rated(2), "usage.refresh.finished messages=2"]


def test_requests_are_counted_apart(printed: Printed) -> None:
    """Prices of two requests at once do not use each other's lines up."""
    for message_id in range(3):
        for request_id in ("a", "b"):
            with bound_contextvars(request_id=request_id):
                log_price(message_id)
    assert printed() == [rated(n) for n in (0, 0, 1, 1)]

    log = structlog.get_logger()
    log.info("http.request", request_id="b")
    log.info("http.request", request_id="b")

    assert printed() == [
        f"log.omitted      messages=1 {OMITTED}",
        "http.request     request_id=b",
        "http.request     request_id=b",
    ]


def test_what_is_counted_is_bounded(printed: Printed) -> None:
    """Of requests that never end, the oldest is forgotten first."""
    log = structlog.get_logger()
    for number in range(MAX_REQUESTS + 1):
        for _ in range(2):
            log.info("report.resolved", request_id=f"{number}")
    printed()
    log.info("http.request", request_id="0")
    log.info("http.request", request_id="1")

    assert printed() == [
        "http.request     request_id=0",
        f"log.omitted      other_lines=1 {OMITTED}",
        "http.request     request_id=1",
    ]


def test_problems_are_always_printed(printed: Printed) -> None:
    """Warnings are neither counted nor shortened, however many there are."""
    for _ in range(3):
        structlog.get_logger().warning(
            "upstream.request", request_id="a" * 32, trace_id="b" * 32, cached=False
        )

    ids = f"request_id={'a' * 32} trace_id={'b' * 32}"
    assert printed() == [f"warning upstream.request {ids} cached=False"] * 3


def test_a_request_is_a_short_line(printed: Printed) -> None:
    """Method, path and status stand alone; of a long request id its end is shown."""
    values = {
        "http.request.method": "GET",
        "http.route": "/usage",
        "url.path": "/usage",
        "http.response.status_code": 200,
        "http.response.body.size": 10416,
        "duration_s": 0.0123456,
        "cache": None,
    }
    ids = {"request_id": "6d6bd6066ece1696cede000000000012", "trace_id": "b" * 32}
    structlog.get_logger().info("http.request", **values, **ids)

    assert printed() == [
        "http.request     GET /usage 200 size=10416 duration=12.3ms request_id=…000012"
    ]


@pytest.mark.parametrize("seconds, shown", [(0.25, "250.0ms"), (61.04, "61.0s")])
def test_durations_are_readable(printed: Printed, seconds: float, shown: str) -> None:
    """Below a second they are milliseconds."""
    structlog.get_logger().info("test.event", wait_s=seconds)

    assert printed() == [f"test.event       wait={shown}"]


def test_no_value_controls_the_terminal(printed: Printed) -> None:
    """Escape sequences, line feeds and spaces are quoted, also in an event."""
    structlog.get_logger().info("a\x1b[2J", value="\x1b[2J\n", spaced="a b", sound="ä")

    assert printed() == [r"'a\x1b[2J'       value='\x1b[2J\n' spaced='a b' sound=ä"]


def test_an_exception_is_printed_below(printed: Printed) -> None:
    """The trace of an error follows its line."""
    try:
        raise KeyError("lost")
    except KeyError as error:
        structlog.get_logger().error("http.error", exc_info=error)

    first, second, *_, last = printed()
    assert first == "error http.error"
    assert second == "Traceback (most recent call last):"
    assert last == "KeyError: 'lost'"


@pytest.mark.parametrize("wanted, is_styled", [("", True), ("1", False)])
def test_no_color_is_honoured(
    wanted: str,
    is_styled: object,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """With `NO_COLOR` set, not even a terminal gets styles."""
    monkeypatch.setenv("NO_COLOR", wanted)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    logs.configure("info", "auto")
    structlog.get_logger().info("test.event")

    log_output.flush()

    assert ("\x1b" in capfd.readouterr().out) is is_styled
