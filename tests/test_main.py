"""The command line as its users meet it: real processes, their output and statuses."""

import json
import os
import platform
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import pytest
from typer.testing import CliRunner

from service.__main__ import EXIT_STATUS, cli, main
from service.events.keys import SANDBOX_KEY
from service.storage.migrations import revisions
from service.usage.pricing.plans import PLANS
from service.web.dashboard import NOT_BUILT, read_dashboard
from tests.events.conftest import event

ROOT: Final = Path(__file__).parent.parent
COMMAND: Final = (sys.executable, "-m", "service")
COMMANDS: Final = ["serve", "sandbox", "rate", "config", "migrate", "keys", "vehicles"]
GIVE_UP_S: Final = 30
SHAPE: Final = revisions()[-1]

MESSAGES: Final = b'{"id":1,"text":"a"}\n{"id":2,"text":"rent rent","report_id":7}\n'
PRICED: Final = (
    b'{"message_id":1,"credits_used":2.0}\n{"message_id":2,"credits_used":1.85}\n'
)
TAKEN: Final = (
    r"copilot-usage: port \d+ of 127\.0\.0\.1 is taken; use another one: "
    r'--port (\d+), or make run ARGS="--port \1"\n'
)
SAID_OF_A_TAKEN_PORT: Final = {
    "serve": TAKEN,
    "serve --workers 2": TAKEN,
    "sandbox": r"copilot-usage: cannot listen: .*address already in use\n",
}
SUMMARY: Final = (
    "copilot-usage: plan: text-rules/1; messages: 2; credits: 3.85; "
    "naming a report, yet priced by text: 1\n"
)


class Call(Protocol):
    """Runs `main` with these arguments; gives status, standard output and error."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


class Server(NamedTuple):
    """A server's process, the lines in which it says where to look, and its log."""

    process: subprocess.Popen[bytes]
    lines: list[str]
    log: Path


class Start(Protocol):
    """Starts `copilot-usage` with these arguments, and waits until it listens."""

    def __call__(self, *arguments: str) -> Server: ...


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine has in its environment changes no test."""
    for name in os.environ:
        if name.startswith("COPILOT_USAGE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a database that is not there yet, which the settings name."""
    file = tmp_path / "var" / "events.db"
    monkeypatch.setenv("COPILOT_USAGE_STORAGE__URL", f"sqlite+aiosqlite:///{file}")
    return file


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The console script without a process of its own."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["copilot-usage", *arguments])
        with pytest.raises(SystemExit) as raised:
            main()
        captured = capsys.readouterr()
        return int(raised.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    """A file of two messages."""
    file = tmp_path / "messages.ndjson"
    file.write_bytes(MESSAGES)
    return file


def finished(
    *arguments: str, given: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """A process that has run to its end."""
    return subprocess.run(  # noqa: S603
        [*COMMAND, *arguments],
        input=given,
        capture_output=True,
        timeout=GIVE_UP_S,
        check=False,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers, which are killed at the end if they have not stopped."""
    with ExitStack() as stack:

        def run(*arguments: str) -> Server:
            log = stack.enter_context((tmp_path / "log").open("wb"))
            to_say = {"serve": ("stderr", 6), "sandbox": ("stdout", 5)}
            says, count = to_say[arguments[0]]
            streams: dict[str, Any] = {
                "stdout": log,
                "stderr": log,
                says: subprocess.PIPE,
            }
            process = subprocess.Popen(  # noqa: S603
                [*COMMAND, *arguments], cwd=ROOT, **streams
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            said = process.stdout or process.stderr
            assert said is not None
            lines = [said.readline().decode().rstrip("\n") for _ in range(count)]
            return Server(process, lines, tmp_path / "log")

        yield run


def get(url: str) -> bytes:
    """The body of an answer."""
    with urllib.request.urlopen(url, timeout=GIVE_UP_S) as answer:  # noqa: S310
        body: bytes = answer.read()
    return body


def plain(text: str) -> str:
    """The text without the colours that help has on some machines."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def url_of(line: str) -> str:
    """The URL in a line."""
    found = re.search(r"http://127\.0\.0\.1:[1-9]\d*", line)
    assert found is not None, line
    return found[0]


# --- serving ------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
@pytest.mark.usefixtures("kept")
def test_serve(stop: signal.Signals, start: Start) -> None:
    """It prints where to look, answers there, logs its start, and ends on a signal."""
    server = start("serve", "--sandbox", "--port", "0")
    url = url_of(server.lines[0])
    is_built = read_dashboard() != NOT_BUILT
    assert server.lines == [
        f"Listening on {url}, until Ctrl-C",
        *([f"  dashboard: {url}/dashboard/"] if is_built else []),
        f"  usage: {url}/usage",
        f"  documentation: {url}/docs",
        *([] if is_built else ["  dashboard: not built; make dashboard builds it"]),
        "  data: a made-up period of the sandbox",
        "  key for /events, in the sandbox only: cu_sandbox",
    ]
    assert get(f"{url}/health/live")
    assert len(json.loads(get(f"{url}/usage"))["usage"]) == 110
    server.process.send_signal(stop)
    assert server.process.wait(GIVE_UP_S) == 0
    entries = [json.loads(line) for line in server.log.read_bytes().splitlines()]
    assert [each["event"] for each in entries].count("http.request") == 2
    assert entries[0].pop("timestamp")
    assert entries[0] == {
        "level": "info",
        "event": "service.started",
        "service.version": version("copilot-usage"),
        "process.runtime.version": platform.python_version(),
        "process.pid": server.process.pid,
        "url.full": url,
    }


def test_sandbox(start: Start) -> None:
    """It says where its calls are, answers them, and faults as it was told to."""
    faults = ["--not-found", "--fault-path", "/reports"]
    server = start("sandbox", "--port", "0", "--messages", "3", *faults)
    url = url_of(server.lines[0])
    assert server.lines == [
        f"Listening on {url}, until Ctrl-C",
        f"  messages: {url}/messages/current-period",
        f"  a report: {url}/reports/{{id}}",
        f"  a vehicle: {url}/api/vehicles/DecodeVinValues/{{vin}}?format=json",
        f"  vehicles, by POST: {url}/api/vehicles/DecodeVINValuesBatch/",
    ]
    assert len(json.loads(get(f"{url}/messages/current-period"))["messages"]) == 3
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"{url}/reports/1000")
    server.process.terminate()
    assert server.process.wait(GIVE_UP_S) == 0
    assert server.log.read_bytes() == b""


def test_sandbox_leaves_requests_at_once(start: Start) -> None:
    """A fault that would go on for minutes does not keep the sandbox from ending."""
    server = start("sandbox", "--port", "0", "--slow-drip")
    with urllib.request.urlopen(  # noqa: S310
        f"{url_of(server.lines[0])}/messages/current-period", timeout=GIVE_UP_S
    ) as answer:
        assert answer.read(1) == b"{"
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(GIVE_UP_S) == 0


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("command", SAID_OF_A_TAKEN_PORT)
def test_a_port_in_use(command: str) -> None:
    """Where the port is taken, that is the one line said, and a failure."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = finished(*command.split(), "--port", str(taken.getsockname()[1]))
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(SAID_OF_A_TAKEN_PORT[command], done.stderr.decode())


# --- rate ---------------------------------------------------------------------------


def test_rate_a_file(messages: Path) -> None:
    """Prices go to standard output, one line about them to standard error."""
    done = finished("rate", str(messages))
    assert (done.returncode, done.stdout) == (0, PRICED)
    assert done.stderr.decode() == SUMMARY


def test_rate_standard_input() -> None:
    """A dash is standard input."""
    done = finished("rate", "-", given=b'{"messages":[{"id":1,"text":"a"}]}')
    assert (done.returncode, done.stdout) == (0, PRICED.splitlines(keepends=True)[0])


def test_rate_stops_at_a_bad_line() -> None:
    """What was priced before a bad line is out, and the line is named."""
    done = finished("rate", "-", given=MESSAGES + b"rent?\n")
    assert (done.returncode, done.stdout) == (1, PRICED)
    assert done.stderr == (
        b"copilot-usage: line 3: JSON is malformed: invalid character (byte 0)\n"
    )


def test_rate_into_a_pipe_that_closes(tmp_path: Path) -> None:
    """A reader that has seen enough, as `head` has, ends it quietly."""
    file = tmp_path / "many.ndjson"
    file.write_bytes(MESSAGES * 20_000)
    with subprocess.Popen(  # noqa: S603
        [*COMMAND, "rate", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == PRICED.splitlines(keepends=True)[0]
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(GIVE_UP_S) == 0


def test_rate_shows_progress_on_a_terminal(messages: Path, tmp_path: Path) -> None:
    """With the output elsewhere, a terminal shows how much of the file is read."""
    ours, theirs = pty.openpty()
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(  # noqa: S603
            [*COMMAND, "rate", str(messages)],
            stdout=out,
            stderr=theirs,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm"},
        )
    os.close(theirs)
    assert process.wait(GIVE_UP_S) == 0
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert "Pricing" in shown
    assert shown.endswith(SUMMARY.replace("\n", "\r\n"))
    assert (tmp_path / "out").read_bytes() == PRICED


@pytest.mark.parametrize(
    "option", ["text-rules", "text-rules/1", "token-estimate", "token-estimate/1"]
)
def test_rate_under_a_plan(option: str, messages: Path, call: Call) -> None:
    """A plan goes by its name, with or without its version."""
    status, _, said = call("rate", str(messages), "--plan", option)
    assert status == 0
    assert f"plan: {option.removesuffix('/1')}/1;" in said


def test_rate_explained(messages: Path, call: Call) -> None:
    """--explain adds the steps to each line."""
    status, printed, _ = call("rate", "--explain", str(messages))
    assert status == 0
    assert [json.loads(line)["steps"][0]["step"] for line in printed.splitlines()] == [
        "base",
        "base",
    ]


def test_rate_as_csv(messages: Path) -> None:
    """--format csv is a table with a header."""
    done = CliRunner().invoke(cli, ["rate", str(messages), "--format", "csv"])
    assert done.exit_code == 0
    assert done.stdout_bytes == (
        b"message_id,timestamp,report_name,credits_used\r\n1,,,2.0\r\n2,,,1.85\r\n"
    )


def test_rate_has_no_steps_in_csv(messages: Path) -> None:
    """Steps do not fit in columns: both options together are refused."""
    arguments = ["rate", str(messages), "--format", "csv", "--explain"]
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--explain has no place in CSV" in plain(done.stderr)


def test_an_unknown_plan(messages: Path, call: Call) -> None:
    """A plan that does not exist is refused with those that do."""
    reason = f"unknown plan 'cheap'; known: {', '.join(PLANS)}"
    assert call("rate", str(messages), "--plan", "cheap") == (
        2,
        "",
        f"copilot-usage: {reason}\n",
    )


@pytest.mark.parametrize(
    "content, reason",
    [
        pytest.param(None, "No such file or directory", id="missing"),
        pytest.param("", "Is a directory", id="directory"),
    ],
)
def test_a_file_of_no_use(
    content: str | None, reason: str, tmp_path: Path, call: Call
) -> None:
    """What cannot be opened is named in one line."""
    file = tmp_path if content == "" else tmp_path / "nothing.json"
    assert call("rate", str(file)) == (2, "", f"copilot-usage: {file}: {reason}\n")


def test_a_file_that_is_not_utf8(tmp_path: Path, call: Call) -> None:
    """A file in another encoding is of no use either."""
    file = tmp_path / "utf16.ndjson"
    file.write_bytes(MESSAGES.decode().encode("utf-16"))
    assert call("rate", str(file)) == (2, "", "copilot-usage: line 1: not UTF-8\n")


# --- events' storage and keys -------------------------------------------------------


def key_in(printed: str) -> str:
    """The key that `keys add` has printed: its last word."""
    return printed.rsplit(maxsplit=1)[-1]


def post_event(url: str, key: str) -> int:
    """The status of sending an event with a key."""
    request = urllib.request.Request(  # noqa: S310
        f"{url}/events",
        data=json.dumps(event()).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=GIVE_UP_S) as answer:  # noqa: S310
            status: int = answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    return status


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_keys_are_made_and_revoked_while_a_service_runs(
    workers: str, start: Start
) -> None:
    """A new key lets in, and a revoked one no more, without a restart."""
    options = ("--sandbox", "--port", "0", "--workers", workers)
    url = url_of(start("serve", *options).lines[0])
    made = finished("keys", "add", "shop")
    key = key_in(made.stdout.decode())

    def answers() -> set[int]:
        """Of both workers, if there are so many."""
        return {post_event(url, key) for _ in range(20)}

    assert (made.returncode, made.stderr) == (0, b"")
    assert post_event(url, SANDBOX_KEY) == 202
    until(lambda: answers() == {202})
    assert finished("keys", "revoke", "shop").stdout == b"Keys revoked: 1\n"
    until(lambda: answers() == {401})
    assert post_event(url, SANDBOX_KEY) == 202


def until(holds: Callable[[], bool]) -> None:
    """Ask a service until it has noticed what another process has done."""
    deadline = time.monotonic() + GIVE_UP_S
    while not holds():
        assert time.monotonic() < deadline


@pytest.mark.usefixtures("kept")
def test_keys_are_listed_and_not_shown(call: Call) -> None:
    """A table tells all but the key; a revoked one stays in it, and by id goes one."""
    shop = key_in(call("keys", "add", "shop")[1])
    call("keys", "add", "shop")
    board = key_in(call("keys", "add", "the board", "--read-all", "--rate", "2.5")[1])
    _, before, _ = call("keys", "list")
    first_id = before.splitlines()[1].split()[0]
    call("keys", "revoke", first_id)
    status, after, said = call("keys", "list")

    header, first, second, third = after.splitlines()
    assert (status, said) == (0, "")
    assert header.split() == ["id", "application", "rights", "rate", "made", "revoked"]
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.fullmatch(rf"{first_id} +shop +own +default +{moment} +{moment}", first)
    assert re.fullmatch(rf"\w{{12}} +shop +own +default +{moment} +", second)
    assert re.fullmatch(rf"\w{{12}} +the board +read-all +2.5/s +{moment} +", third)
    assert shop not in after
    assert board not in after


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (("add", " "), "an application's name has printable characters, and some"),
        (("add", "a\nb"), "an application's name has printable characters, and some"),
        (("add", "\udcff"), "an application's name has printable characters, and some"),
        (("add", "a" * 201), "an application's name has at most 200 characters"),
        *(
            (
                ("add", "a", "--rate", rate),
                "a rate is more than 0 and at most 1,000",
            )
            for rate in ("0", "-1", "nan", "inf")
        ),
    ],
)
def test_keys_that_cannot_be_made(
    arguments: tuple[str, ...], reason: str, kept: Path, call: Call
) -> None:
    """A name or a rate of no use is refused in one line, and no key is made."""
    status, printed, said = call("keys", *arguments)
    assert (status, printed) == (2, "")
    assert said.startswith(f"copilot-usage: {reason}")
    assert said.count("\n") == 1
    assert kept.exists()
    assert len(call("keys", "list")[1].splitlines()) == 1


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("name, status", [("shop", 2), ("nobody", 2), ("\udcff", 1)])
def test_no_key_to_revoke(name: str, status: int, call: Call) -> None:
    """A key that is revoked already, or never was, is named in one line."""
    call("keys", "add", "shop")
    call("keys", "revoke", "shop")
    given, printed, said = call("keys", "revoke", name)
    assert (given, printed) == (status, "")
    assert said.startswith("copilot-usage: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", [("list",), ("revoke", "shop")])
def test_no_database_is_made_to_look_into(
    command: tuple[str, ...], kept: Path, call: Call
) -> None:
    """In a wrong folder, `keys list` makes no file; it says that there is none."""
    said = f"storage.url: sqlite+aiosqlite:///{kept}: there is no such file"
    assert call("keys", *command) == (1, "", f"copilot-usage: {said}\n")
    assert not kept.parent.exists()


@pytest.mark.parametrize("command", ["migrate", "serve"])
def test_no_server_of_the_database(command: str, call: Call) -> None:
    """One clear line, in which the password is hidden."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        at = f"127.0.0.1:{bound.getsockname()[1]}/test"
        url = f"postgresql+asyncpg://me:pa55@{at}"
        done = finished(command, environment={"COPILOT_USAGE_STORAGE__URL": url})
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(
        rf"copilot-usage: storage\.url: postgresql\+asyncpg://me:\*\*\*@{at}: .+\n",
        done.stderr.decode(),
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bad_file_is_left_alone(workers: str, kept: Path) -> None:
    """No service starts on a file that is no database, and none takes its place."""
    kept.parent.mkdir()
    kept.write_bytes(b"not a database " * 100)
    done = finished("serve", "--port", "0", "--workers", workers)
    said = f"storage.url: sqlite+aiosqlite:///{kept}: file is not a database"
    assert done.stderr.decode() == f"copilot-usage: {said}\n"
    assert (done.returncode, done.stdout) == (1, b"")
    assert kept.read_bytes() == b"not a database " * 100
    assert list(kept.parent.iterdir()) == [kept]


def test_migrate(kept: Path, call: Call) -> None:
    """It says which shape the database has, the first time and any other."""
    for _ in range(2):
        assert call("migrate") == (0, f"The database has the shape {SHAPE}.\n", "")
    assert kept.exists()


# --- config -------------------------------------------------------------------------


def test_config_is_toml_when_piped() -> None:
    """A program reads it as TOML, whatever the width of a terminal nearby."""
    done = finished("config", environment={"COLUMNS": "20"})
    assert (done.returncode, done.stderr) == (0, b"")
    defaults = tomllib.loads((ROOT / "config/default.toml").read_text())
    assert tomllib.loads(done.stdout.decode()) == defaults


@pytest.mark.parametrize(
    "content, reason",
    [
        pytest.param("prot = 1", "server.prot: unknown setting", id="unknown key"),
        pytest.param(
            "port = '1'", "server.port: expected `int`, not '1'", id="wrong type"
        ),
        pytest.param(
            "port = -1", "server.port: expected `int` >= 0, not -1", id="impossible"
        ),
    ],
)
@pytest.mark.parametrize("command", ["config", "serve"])
def test_a_bad_file_of_settings(
    command: str, content: str, reason: str, tmp_path: Path, call: Call
) -> None:
    """A setting in a file that makes no sense stops the start, named in one line."""
    file = tmp_path / "our.toml"
    file.write_text(f"[server]\n{content}\n")
    said = f"copilot-usage: {reason} (from {file})\n"
    assert call(command, "--config", str(file)) == (2, "", said)


@pytest.mark.parametrize(
    "variable, value, reason",
    [
        pytest.param("X__Y", "1", "x.y: unknown setting", id="unknown key"),
        pytest.param(
            "SERVER__PORT",
            "http",
            "server.port: expected `int`, not 'http'",
            id="wrong type",
        ),
        pytest.param(
            "UPSTREAM__ATTEMPTS",
            "0",
            "upstream.attempts: expected `int` >= 1, not '0'",
            id="impossible",
        ),
    ],
)
@pytest.mark.parametrize("command", ["config", "serve"])
def test_a_bad_environment(
    command: str, variable: str, value: str, reason: str
) -> None:
    """A variable that makes no sense stops the start, named in one line."""
    done = finished(command, environment={f"COPILOT_USAGE_{variable}": value})
    said = f"copilot-usage: {reason} (from environment)\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", said)


# --- the whole ----------------------------------------------------------------------


def test_without_arguments_it_helps(call: Call) -> None:
    """Who calls it bare is shown the commands, and that is no error."""
    status, printed, said = call()
    assert (status, said) == (0, "")
    assert re.findall(r"^│ ([a-z]+) ", plain(printed), re.MULTILINE) == COMMANDS


def test_version(call: Call) -> None:
    """It is of the version that is installed."""
    installed = f"copilot-usage {version('copilot-usage')}\n"
    assert call("--version") == (0, installed, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(command: str, call: Call) -> None:
    """--help is there, and goes to standard output."""
    status, printed, said = call(command, "--help")
    assert (status, said) == (0, "")
    assert f"copilot-usage {command} [OPTIONS]" in plain(printed)


def test_statuses_are_told_apart() -> None:
    """1 is a failure on the way, 2 a call that could not work; no other is used."""
    assert set(EXIT_STATUS.values()) == {1, 2}
