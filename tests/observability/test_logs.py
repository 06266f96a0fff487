"""Rendering of log lines in the JSON form, and of records of the stdlib."""

import json
import logging
import re
import sys
from typing import Any

import pytest
import structlog

from service.observability import log_output, logs

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


def render(**entry: object) -> bytes:
    return logs.render_json(None, "info", dict(entry))


def test_a_line_to_the_byte() -> None:
    """Timestamp, level and event come first, as compact JSON."""
    line = render(
        message_id=7,
        level="info",
        text="naïve\n",
        timestamp="2024-04-29T03:25:03.613Z",
        event="credits.rated",
        **{"url.path": "/usage", "cache": None},
    )

    assert line == (
        b'{"timestamp":"2024-04-29T03:25:03.613Z","level":"info",'
        b'"event":"credits.rated","message_id":7,"text":"na\xc3\xafve\\n",'
        b'"url.path":"/usage","cache":null}'
    )


class Odd:
    """A value that JSON lacks."""

    def __str__(self) -> str:
        return "an odd value"


CYCLE: list[object] = []
CYCLE.append(CYCLE)


WITHOUT_JSON: dict[str, tuple[object, object]] = {
    "object": (Odd(), "an odd value"),
    "error": (ValueError("no"), "no"),
    "list": ([Odd()], ["an odd value"]),
    "half": ("\ud83c", "'\\ud83c'"),
    "key": ({(1, 2): "x"}, {"(1, 2)": "x"}),
    "cycle": (CYCLE, "[[...]]"),
    "NaN": (float("nan"), None),
    "huge": (10**30, 10**30),
}


@pytest.mark.parametrize("value, shown", WITHOUT_JSON.values(), ids=WITHOUT_JSON)
def test_a_value_without_json_becomes_a_string(value: object, shown: object) -> None:
    """A value that JSON lacks becomes text, and other values stay unchanged."""
    line = json.loads(render(event="test", odd=value, sound="näh"))

    assert line["odd"] == shown
    assert line["sound"] == "näh"


def lines_of(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The lines since the last call."""
    log_output.flush()
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_a_logged_line_is_one_json_object(capfd: pytest.CaptureFixture[str]) -> None:
    """A logged line has a timestamp in UTC and the bound context."""
    logs.configure("info", "json")
    with structlog.contextvars.bound_contextvars(request_id="some-id"):
        structlog.get_logger().info("test.event", value="two\nlines")

    (line,) = lines_of(capfd)
    assert TIMESTAMP.fullmatch(line["timestamp"])
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert {k: v for k, v in line.items() if k != "timestamp"} == {
        "level": "info",
        "event": "test.event",
        "value": "two\nlines",
        "request_id": "some-id",
    }


def test_an_exception_stays_on_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    """A traceback is one value of the line."""
    logs.configure("info", "json")
    try:
        raise KeyError("lost")
    except KeyError as error:
        structlog.get_logger().error("http.error", exc_info=error)

    (line,) = lines_of(capfd)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("KeyError: 'lost'")
    assert "exc_info" not in line


@pytest.mark.parametrize(
    "level, written",
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lower_levels_are_not_written(
    capfd: pytest.CaptureFixture[str], level: str, written: list[str]
) -> None:
    """The log has the selected level and the higher ones."""
    logs.configure(level, "json")
    log = structlog.get_logger()
    for each in ("debug", "info", "warning", "error"):
        getattr(log, each)("test.event")

    assert [line["level"] for line in lines_of(capfd)] == written


def test_stdlib_records_join_as_lines(capfd: pytest.CaptureFixture[str]) -> None:
    """A library's warning is a JSON line, in order with ours."""
    logs.configure("info", "json")
    with structlog.contextvars.bound_contextvars(request_id="some-id"):
        structlog.get_logger().info("test.before")
        logging.getLogger("a.library").warning("%d of %s", 3, "four")
        logging.getLogger("a.library").info("not worth a line")
        structlog.get_logger().info("test.after")

    before, joined, after = lines_of(capfd)
    assert [before["event"], after["event"]] == ["test.before", "test.after"]
    assert TIMESTAMP.fullmatch(joined.pop("timestamp"))
    assert joined == {
        "level": "warning",
        "event": "3 of four",
        "logger": "a.library",
        "request_id": "some-id",
    }


def test_a_stdlib_exception_joins_too(capfd: pytest.CaptureFixture[str]) -> None:
    """The traceback of a library is a value of the line."""
    logs.configure("error", "json")
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("aiohttp.server").exception("Error handling request")

    (line,) = lines_of(capfd)
    assert line["logger"] == "aiohttp.server"
    assert line["exception"].endswith("KeyError: 'lost'")


@pytest.mark.parametrize(
    "form, is_terminal, expected",
    [
        ("auto", True, True),
        ("auto", False, False),
        ("json", True, False),
        ("console", False, True),
    ],
)
def test_the_form_follows_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
    form: logs.LogFormat,
    is_terminal: object,
    expected: object,
) -> None:
    """ "auto" is for people on a terminal, and JSON anywhere else."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)

    assert logs.is_console(form) is expected
