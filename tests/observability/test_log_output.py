"""The writing thread: failures that end, and lines that they have cut."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import structlog

from service.observability import log_output, logs
from service.observability.line_queue import Kind
from tests.patience import GIVE_UP_S
from tests.running import ROOT

FULL_FOR_A_WHILE: Final = """
import resource, time, structlog
from service.observability import logs
from service.observability.log_output import STDOUT

def until_written():
    while not STDOUT.queue.is_empty:
        time.sleep(0.01)

def limit_size(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

logs.configure("info", "json")
log = structlog.get_logger()
limit_size(1_000)
for number in range(100):
    log.info("test.lost", number=number)
until_written()
limit_size(resource.RLIM_INFINITY)
log.info("test.written")
until_written()
"""


def test_the_log_continues_after_a_failure(tmp_path: Path) -> None:
    """A file that was full for a while has whole lines after the one that was cut."""
    log = tmp_path / "log"
    with log.open("wb") as output:
        subprocess.run(  # noqa: S603 - it runs this interpreter
            [sys.executable, "-c", FULL_FOR_A_WHILE],
            stdout=output,
            cwd=ROOT,
            check=True,
            timeout=GIVE_UP_S,
        )

    text = log.read_bytes()
    lines, kept = text.splitlines(), text[:1_000].count(b"\n")
    before, (written, report) = (
        [json.loads(line) for line in part]
        for part in (lines[:kept], lines[kept + 1 :])
    )
    assert {each["event"] for each in before} == {"test.lost"}
    assert written["event"] == "test.written"
    assert report["event"] == "log.dropped"
    assert report["kinds"] == {"info": 100 - kept}


@pytest.mark.parametrize(
    "level, event, kind",
    [
        ("debug", "test.event", Kind.DETAIL),
        ("info", "credits.step", Kind.DETAIL),
        ("info", "credits.rated", Kind.DETAIL),
        ("info", "test.event", Kind.INFO),
        ("warning", "test.event", Kind.WARNING),
        ("error", "test.event", Kind.ERROR),
        ("critical", "test.event", Kind.ERROR),
    ],
)
@pytest.mark.parametrize("form", ["json", "console"])
def test_event_and_level_make_the_kind(
    level: str,
    event: str,
    kind: Kind,
    form: logs.LogFormat,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps and debug lines are details; the level decides on the others."""
    put: list[Kind] = []
    queue = log_output.STDOUT.queue
    monkeypatch.setattr(queue, "put", lambda _text, kind: put.append(kind))
    logs.configure("debug", form)
    getattr(structlog.get_logger(), level)(event, step="base", credits=1.0)

    # The console prints steps in the line of their price.
    is_printed = (form, event) != ("console", "credits.step")
    assert put == ([kind] if is_printed else [])


@pytest.mark.parametrize(
    "level, kind",
    [
        (logging.WARNING, Kind.WARNING),
        (logging.WARNING + 5, Kind.WARNING),
        (logging.ERROR, Kind.ERROR),
        (logging.CRITICAL, Kind.ERROR),
    ],
)
def test_records_of_libraries_have_kinds(
    level: int, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library's record counts by its level, also by one of its own."""
    put: list[Kind] = []
    queue = log_output.STDOUT.queue
    monkeypatch.setattr(queue, "put", lambda _text, kind: put.append(kind))
    logs.configure("info", "json")
    logging.getLogger("a.library").log(level, "some text")

    assert put == [kind]


def test_a_record_that_cannot_be_rendered_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library's wrong format raises nothing where it logs."""
    monkeypatch.setattr(logging, "raiseExceptions", True)
    logs.configure("info", "json")
    logging.getLogger("a.library").warning("%d", "four")

    assert "TypeError" in capsys.readouterr().err
