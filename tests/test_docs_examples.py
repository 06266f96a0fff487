"""The examples of the README and of the pages by task, run against the real service.

A `console` block holds commands after `$`, each followed by its output. Commands are
pipelines of `curl`, `jq`, `grep`, `echo` and `copilot-usage`. This module runs all of
them itself, so that the tests need none of these tools on the machine.
"""

import ast
import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import jq
import pytest

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = (
    "README.md",
    "docs/use-the-api.md",
    "docs/keys.md",
    "docs/collect-events.md",
    "docs/stock-clients.md",
    "docs/look-up-vehicles.md",
    "docs/budgets.md",
    "docs/operate.md",
    "docs/settings.md",
    "docs/develop.md",
)
"""In the order in which a reader meets them; one service answers all of them."""
CLIENT_PAGES: Final = ("docs/collect-events.md", "clients/python/README.md")
"""Pages with examples in Python; each block sends an event."""
RUN_ELSEWHERE: Final = {"docs/backup.md", "docs/price-files.md"}
"""Pages whose commands `tests/deploy` and `tests/usage/bulk` run."""
SERVER_COMMANDS: Final = ("make run", ".venv/bin/copilot-usage serve")
GIVE_UP_S: Final = 60
LOOK_AGAIN_S: Final = 0.01
LOGGED_EVENT: Final = {
    "session_id": "before-the-examples",
    "category": "page interaction",
    "name": "pageview",
    "data": {"host": "www.example.com", "path": "/"},
    "timestamp": "2020-01-01T00:00:00Z",
}


class Example(NamedTuple):
    """A command of a page, and its documented output."""

    page: str
    command: str
    output: str


class Service(NamedTuple):
    """The service that answers the examples, its log and its environment."""

    address: str
    log: Path
    environment: dict[str, str]


def read(page: str) -> str:
    """Return the text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def examples(page: str) -> Iterator[Example]:
    """Every command of every console block of a page, in order."""
    for block in re.findall(r"```console\n(.*?)```", read(page), re.DOTALL):
        for part in filter(None, re.split(r"^\$ ", block, flags=re.MULTILINE)):
            command, _, output = part.partition("\n")
            yield Example(page, command, output)


RUNNABLE: Final = [
    each
    for page in PAGES
    for each in examples(page)
    if not each.command.startswith(SERVER_COMMANDS)
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Start what `make run` starts, on a free port and with a database of its own."""
    folder = tmp_path_factory.mktemp("examples")
    log = folder / "usage.log"
    storage = f"sqlite+aiosqlite:///{folder}/events.db"
    environment = {
        **os.environ,
        "COPILOT_USAGE_STORAGE__URL": storage,
        "COPILOT_USAGE_PERIODS__ENABLED": "true",
    }
    command = [sys.executable, "-m", "service", "serve", "--sandbox", "--port", "0"]
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
    assert process.stderr is not None
    port = next(
        found[1]
        for line in process.stderr
        if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line))
    )
    service = Service(f"127.0.0.1:{port}", log, environment)
    fill_log(service)
    yield service
    process.send_signal(signal.SIGTERM)
    process.stderr.close()
    process.wait(GIVE_UP_S)


def fill_log(service: Service) -> None:
    """Make one refresh and accept one event, so that the log has a line of each."""
    curl(["localhost:8000/usage"], service)
    event = json.dumps(LOGGED_EVENT)
    key = "X-API-Key: cu_sandbox"
    curl(["-H", key, "--json", event, "localhost:8000/events"], service)


@pytest.mark.parametrize(
    "example", RUNNABLE, ids=lambda each: f"{each.page}: {each.command[:60]}"
)
def test_an_example_prints_its_output(example: Example, service: Service) -> None:
    """Each example prints the output that the page shows below it."""
    given = ""
    for stage in split_pipeline(example.command):
        given = run(stage, given, service)
    if example.output:
        assert given == example.output
    else:
        assert given


@pytest.mark.parametrize("page", CLIENT_PAGES)
def test_a_python_example_sends_an_event(
    page: str, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client, used as the page shows it, has the service accept its event."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    blocks = re.findall(r"```python\n(.*?)```", read(page), re.DOTALL)
    assert blocks
    for block in blocks:
        code = block.replace("http://127.0.0.1:8000", f"http://{service.address}")
        before = events_accepted(service)
        program = compile(code, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(program, {"key": "cu_sandbox"})  # noqa: S307
        if running is not None:
            asyncio.run(running)

        assert events_accepted(service) == before + 1


def events_accepted(service: Service) -> float:
    """Return how many events the service has accepted so far."""
    metrics = curl(["localhost:8000/metrics"], service)
    found = re.search(
        r'^copilot_usage_events_total{result="accepted"} (.+)$', metrics, re.M
    )
    return float(found[1]) if found else 0.0


def test_the_first_example_is_a_request() -> None:
    """The README begins with `make run`, a request, and its answer."""
    started, requested, *_ = examples("README.md")

    assert started.command == "make run"
    assert requested.command.startswith("curl ")
    assert requested.output.startswith('{"usage":[')


def test_every_page_with_examples_is_run() -> None:
    """No other page has a console block, or a Python one."""
    folders = (ROOT / "docs", ROOT / "clients")
    pages = [*ROOT.glob("*.md"), *(each for at in folders for each in at.rglob("*.md"))]
    names = {str(page.relative_to(ROOT)) for page in pages}

    others = {name for name in names - set(PAGES) if "```console" in read(name)}
    assert others == RUN_ELSEWHERE
    assert {name for name in names if "```python" in read(name)} == set(CLIENT_PAGES)


def split_pipeline(command: str) -> list[list[str]]:
    """Split a pipeline into the arguments of each stage; keep pipes inside quotes."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|")
    lexer.whitespace_split = True
    stages: list[list[str]] = [[]]
    for token in lexer:
        if token == "|":
            stages.append([])
        else:
            stages[-1].append(token)
    return stages


def run(stage: list[str], given: str, service: Service) -> str:
    """Run one stage on the output of the stage before, and return its output."""
    name, *arguments = stage
    match name:
        case "curl":
            return curl(arguments, service)
        case "jq":
            return filter_json(arguments, given, service)
        case "echo":
            return arguments[0] + "\n"
        case "grep":
            lines = given.splitlines(keepends=True)
            return "".join(line for line in lines if re.search(arguments[0], line))
        case ".venv/bin/copilot-usage":
            return copilot_usage(arguments, given, service)
        case _:
            raise AssertionError(f"a page runs {name}, which no test knows")


def curl(arguments: list[str], service: Service) -> str:
    """Send a request as `curl -s [-X METHOD] [-H HEADER] [--json BODY] URL` does."""
    headers, body, method = {}, None, None
    while arguments[0].startswith("-"):
        match arguments.pop(0):
            case "-H":
                header, _, value = arguments.pop(0).partition(": ")
                headers[header] = value
            case "-X":
                method = arguments.pop(0)
            case "--json":
                headers.setdefault("Content-Type", "application/json")
                body = arguments.pop(0).encode()
            case option:
                assert option == "-s", f"no test knows {option} of curl"
    url = arguments[0].replace("localhost:8000", f"http://{service.address}")
    text = send(urllib.request.Request(url, body, headers, method=method))  # noqa: S310
    # A body without a line feed at its end is shown as if it had one.
    return text.replace("\r\n", "\n").rstrip("\n") + "\n"


def send(request: urllib.request.Request) -> str:
    """Return the body of an answer, whatever its status; curl prints both alike."""
    try:
        with urllib.request.urlopen(request, timeout=GIVE_UP_S) as answer:  # noqa: S310
            body: bytes = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            body = error.read()
    return body.decode()


def filter_json(arguments: list[str], given: str, service: Service) -> str:
    """Run `jq -c [-s] PROGRAM [FILE]`; the file is the service's log.

    The service writes its log some milliseconds after it has answered, so a program on
    the log is repeated until it finds something.
    """
    assert arguments.pop(0) == "-c"
    is_slurped = arguments[0] == "-s"
    program, *files = arguments[is_slurped:]
    if not files:
        return select(program, given, is_slurped=is_slurped)
    deadline = time.monotonic() + GIVE_UP_S
    while not (
        found := select(program, whole_lines(service.log), is_slurped=is_slurped)
    ):
        assert time.monotonic() < deadline, f"the log has nothing for {program}"
        time.sleep(LOOK_AGAIN_S)
    return found


def select(program: str, text: str, *, is_slurped: bool = False) -> str:
    """Return the values that a program of jq finds, one a line."""
    values = jq.compile(program).input_text(text, slurp=is_slurped).all()
    return "".join(json.dumps(value, separators=(",", ":")) + "\n" for value in values)


def whole_lines(file: Path) -> str:
    """Return the text of a file up to its last line feed."""
    text, line_feed, _ = file.read_text(encoding="utf-8").rpartition("\n")
    return text + line_feed


def copilot_usage(arguments: list[str], given: str, service: Service) -> str:
    """Run our own command on the service's database, as in a checkout."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "service", *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=service.environment,
    ).stdout
