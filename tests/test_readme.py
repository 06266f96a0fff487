"""The README's examples, run as they stand against the real service.

A `console` block is commands after `$`, each followed by what it prints. Commands are
pipelines of `curl`, `jq`, `grep`, `echo` and our own command; all are played here, so
that the tests need none of them on the machine.
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
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import jq
import pytest

ROOT: Final = Path(__file__).parent.parent
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
SERVER_COMMANDS: Final = ("make run", ".venv/bin/copilot-usage serve")
START_S: Final = 30


class Example(NamedTuple):
    """A command of the README, and what it is said to print."""

    command: str
    output: str


class Service(NamedTuple):
    """The service that the examples talk to, and the log it has written."""

    address: str
    log: Path


def examples() -> list[Example]:
    """Every command of every console block."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.M)]
    pairs = [part.partition("\n") for part in parts if part]
    return [Example(command, output) for command, _, output in pairs]


EXAMPLES: Final = [each for each in examples() if not each.command.startswith("make")]
RUNNABLE: Final = [
    each for each in EXAMPLES if not each.command.startswith(SERVER_COMMANDS)
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """What `make run` runs, on a free port and with a database of its own."""
    folder = tmp_path_factory.mktemp("readme")
    log = folder / "usage.log"
    storage = f"sqlite+aiosqlite:///{folder}/events.db"
    command = [sys.executable, "-m", "service", "serve", "--sandbox", "--port", "0"]
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "COPILOT_USAGE_STORAGE__URL": storage},
        )
    assert process.stderr is not None
    port = next(
        found[1]
        for line in process.stderr
        if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line))
    )
    service = Service(f"127.0.0.1:{port}", log)
    curl(["localhost:8000/usage"], service)  # so that there is a log to read
    yield service
    process.send_signal(signal.SIGTERM)
    process.stderr.close()
    process.wait(START_S)


@pytest.mark.parametrize("example", RUNNABLE, ids=lambda each: each.command[:60])
def test_readme_example(example: Example, service: Service) -> None:
    """Each example prints what the README shows below it."""
    given = ""
    for stage in split_pipeline(example.command):
        given = run(stage, given, service)
    if example.output:
        assert given == example.output
    else:
        assert given


def test_the_python_example_sends_an_event(service: Service) -> None:
    """The client, used as the README shows it, has the service accept its event."""
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    url = f"http://{service.address}"
    code = block.replace("http://127.0.0.1:8000", url)
    before = events_accepted(service)

    program = compile(code, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    asyncio.run(eval(program, {"key": "cu_sandbox"}))  # noqa: S307

    assert events_accepted(service) == before + 1


def events_accepted(service: Service) -> float:
    """How many events the service has accepted by now."""
    told = curl(["localhost:8000/metrics"], service)
    found = re.search(
        r'^copilot_usage_events_total{result="accepted"} (.+)$', told, re.M
    )
    return float(found[1]) if found else 0.0


def test_the_first_example_is_a_request() -> None:
    """Below `make run`, the first thing a newcomer sees is an answer."""
    assert examples()[0].command == "make run"
    assert RUNNABLE[0].command.startswith("curl ")
    assert RUNNABLE[0].output.startswith('{"usage":[')


def test_the_settings_are_as_shipped() -> None:
    """Each row of the settings has the shipped comment and default."""
    shipped = (ROOT / "config" / "default.toml").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| (.+) \| `(.+)` \|$", README, re.M)

    assert len(rows) > 10
    for section, key, meaning, default in rows:
        body = shipped.partition(f"[{section}]")[2].partition("\n[")[0]
        comment = body.partition(f"\n{key} = {default}\n")[0]
        told = " ".join(line.removeprefix("# ") for line in comment.split("\n"))
        assert told.endswith(f"{meaning}."), f"{section}.{key}"


def split_pipeline(command: str) -> list[list[str]]:
    """The stages of a pipeline as arguments, pipes inside quotes left alone."""
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
    """What one stage prints."""
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
            return copilot_usage(arguments, given)
        case _:
            raise AssertionError(f"the README runs {name}, which no test knows")


def curl(arguments: list[str], service: Service) -> str:
    """GET with the headers given by -H, or POST --json; `-s` changes nothing here."""
    headers, body = {}, None
    while arguments[0].startswith("-"):
        option = arguments.pop(0)
        if option == "-H":
            header, _, value = arguments.pop(0).partition(": ")
            headers[header] = value
        if option == "--json":
            headers["Content-Type"] = "application/json"
            body = arguments.pop(0).encode()
    url = arguments[0].replace("localhost:8000", f"http://{service.address}")
    request = urllib.request.Request(url, body, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=START_S) as answer:  # noqa: S310
        text: str = answer.read().decode()
    # A body without a line feed at its end is shown as if it had one.
    return text.replace("\r\n", "\n").rstrip("\n") + "\n"


def filter_json(arguments: list[str], given: str, service: Service) -> str:
    """`jq -c PROGRAM [FILE]`, the file being the service's log."""
    assert arguments.pop(0) == "-c"
    program, *files = arguments
    text = service.log.read_text() if files else given
    values = jq.compile(program).input_text(text).all()
    return "".join(json.dumps(value, separators=(",", ":")) + "\n" for value in values)


def copilot_usage(arguments: list[str], given: str) -> str:
    """Our own command, as it is installed beside this interpreter."""
    command = [sys.executable, "-m", "service", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        storage = f"sqlite+aiosqlite:///{folder}/vehicles.db"
        return subprocess.run(  # noqa: S603
            command,
            input=given,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "COPILOT_USAGE_STORAGE__URL": storage},
        ).stdout
