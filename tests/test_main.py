"""The command line: output and exit status of real processes."""

import json
import os
import platform
import pty
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import pytest
from typer.testing import CliRunner

from service.__main__ import main
from service.command_line import cli
from service.keys.store import SANDBOX_KEY
from service.settings import SCOPES
from service.storage.migrations import revisions
from service.usage.pricing.plans import PLANS
from service.web.static_pages import NOT_BUILT, read_dashboard
from tests.events.conftest import event

ROOT: Final = Path(__file__).parent.parent
COMMAND: Final = (sys.executable, "-m", "service")
PLAIN_COMMANDS: Final = "serve writer sandbox rate price config migrate backup".split()
GROUPS: Final = "keys budgets periods queue vehicles".split()
COMMANDS: Final = [*PLAIN_COMMANDS, *GROUPS]
GIVE_UP_S: Final = 30
SCHEMA: Final = revisions()[-1]

MESSAGES: Final = b'{"id":1,"text":"a"}\n{"id":2,"text":"rent rent","report_id":7}\n'
PRICED: Final = (
    b'{"message_id":1,"credits_used":2.0}\n{"message_id":2,"credits_used":1.85}\n'
)
IN_USE: Final = (
    r"copilot-usage: port \d+ of 127\.0\.0\.1 is in use; choose another one: "
    r'--port (\d+), or make run ARGS="--port \1"\n'
)
PORT_IN_USE: Final = {
    "serve": IN_USE,
    "serve --workers 2": IN_USE,
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
    """Remove settings from the environment."""
    for name in os.environ:
        if name.startswith("COPILOT_USAGE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def database_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
@pytest.mark.usefixtures("database_file")
def test_serve(stop: signal.Signals, start: Start) -> None:
    """It prints its addresses, answers there, logs its start, and ends on a signal."""
    server = start("serve", "--sandbox", "--port", "0")
    url = url_of(server.lines[0])
    is_built = read_dashboard() != NOT_BUILT
    assert server.lines == [
        f"Listening on {url}, until Ctrl-C",
        *([f"  dashboard: {url}/dashboard/"] if is_built else []),
        f"  usage: {url}/usage",
        f"  documentation: {url}/docs",
        *([] if is_built else ["  dashboard: not built; make dashboard builds it"]),
        "  data: a generated period of the sandbox",
        "  key with every scope, in the sandbox only: cu_sandbox",
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
    """It prints its addresses, answers there, and plays the selected fault."""
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
    """A fault of minutes does not delay the end."""
    server = start("sandbox", "--port", "0", "--slow-drip")
    with urllib.request.urlopen(  # noqa: S310
        f"{url_of(server.lines[0])}/messages/current-period", timeout=GIVE_UP_S
    ) as answer:
        assert answer.read(1) == b"{"
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(GIVE_UP_S) == 0


@pytest.mark.usefixtures("database_file")
@pytest.mark.parametrize("command", PORT_IN_USE)
def test_a_port_in_use(command: str) -> None:
    """A port in use is reported in one line, with exit status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = finished(*command.split(), "--port", str(taken.getsockname()[1]))
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(PORT_IN_USE[command], done.stderr.decode())


# --- rate ---------------------------------------------------------------------------


def test_rate_a_file(messages: Path) -> None:
    """Prices go to standard output, one line about them to standard error."""
    done = finished("rate", str(messages))
    assert (done.returncode, done.stdout) == (0, PRICED)
    assert done.stderr.decode() == SUMMARY


def test_rate_stops_at_a_bad_line() -> None:
    """Messages before a bad line are priced, and the line is named."""
    done = finished("rate", "-", given=MESSAGES + b"rent?\n")
    assert (done.returncode, done.stdout) == (1, PRICED)
    assert done.stderr == (
        b"copilot-usage: line 3: JSON is malformed: invalid character (byte 0)\n"
    )


def test_rate_into_a_pipe_that_closes(tmp_path: Path) -> None:
    """A closed pipe, as of `head`, ends it without an error."""
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
    """A plan is named with or without its version."""
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
    """CSV has no steps, so both options together are refused."""
    arguments = ["rate", str(messages), "--format", "csv", "--explain"]
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--explain needs --format ndjson" in plain(done.stderr)


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
def test_an_unreadable_file(
    content: str | None, reason: str, tmp_path: Path, call: Call
) -> None:
    """A file that cannot be opened is named in one line."""
    file = tmp_path if content == "" else tmp_path / "nothing.json"
    assert call("rate", str(file)) == (2, "", f"copilot-usage: {file}: {reason}\n")


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


@pytest.mark.usefixtures("database_file")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_keys_are_made_and_revoked_while_a_service_runs(
    workers: str, start: Start
) -> None:
    """A new key is accepted and a revoked one refused, without a restart."""
    options = ("--sandbox", "--port", "0", "--workers", workers)
    url = url_of(start("serve", *options).lines[0])
    made = finished("keys", "add", "shop")
    key = key_in(made.stdout.decode())

    def answers() -> set[int]:
        """Statuses of all workers."""
        return {post_event(url, key) for _ in range(20)}

    assert (made.returncode, made.stderr) == (0, b"")
    assert post_event(url, SANDBOX_KEY) == 202
    until(lambda: answers() == {202})
    assert finished("keys", "revoke", "shop").stdout == b"Keys revoked: 1\n"
    until(lambda: answers() == {401})
    assert post_event(url, SANDBOX_KEY) == 202


def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + GIVE_UP_S
    while not holds():
        assert time.monotonic() < deadline


@pytest.mark.usefixtures("database_file")
def test_keys_are_listed_and_not_shown(call: Call) -> None:
    """The list has no keys, but revoked entries; one is revoked by its id."""
    shop = key_in(call("keys", "add", "shop")[1])
    call("keys", "add", "shop", "--scopes", "usage:read, vehicles:read")
    board = key_in(call("keys", "add", "the board", "--read-all", "--rate", "2.5")[1])
    _, before, _ = call("keys", "list")
    first_id = before.splitlines()[1].split()[0]
    call("keys", "revoke", first_id)
    status, after, said = call("keys", "list")

    header, first, second, third = after.splitlines()
    assert (status, said) == (0, "")
    assert header.split() == ["id", "application", "scopes", "rate", "made", "revoked"]
    scopes, read = (
        "usage:read,vehicles:read",
        "events:write,events:read,events:read-all",
    )
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.fullmatch(
        rf"{first_id} +shop +events:write +default +{moment} +{moment}", first
    )
    assert re.fullmatch(rf"\w{{12}} +shop +{scopes} +default +{moment} +", second)
    assert re.fullmatch(rf"\w{{12}} +the board +{read} +2.5/s +{moment} +", third)
    assert shop not in after
    assert board not in after


BAD_NAME = "an application's name needs printable characters"


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (("add", " "), BAD_NAME),
        (("add", "a\nb"), BAD_NAME),
        (("add", "\udcff"), BAD_NAME),
        (("add", "a" * 201), "an application's name has at most 200 characters"),
        (
            ("add", "a", "--scopes", "usage:read,billing"),
            f"unknown scope 'billing'; known: {', '.join(SCOPES)}",
        ),
        (
            ("add", "a", "--scopes", ","),
            f"a key needs a scope; known: {', '.join(SCOPES)}",
        ),
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
    arguments: tuple[str, ...], reason: str, database_file: Path, call: Call
) -> None:
    """An invalid name or rate is refused in one line, and no key is made."""
    status, printed, said = call("keys", *arguments)
    assert (status, printed) == (2, "")
    assert said.startswith(f"copilot-usage: {reason}")
    assert said.count("\n") == 1
    assert database_file.exists()
    assert len(call("keys", "list")[1].splitlines()) == 1


@pytest.mark.usefixtures("database_file")
@pytest.mark.parametrize("name", ["shop", "nobody", "\udcff"])
def test_no_key_to_revoke(name: str, call: Call) -> None:
    """A key that is revoked already, or never was, is named in one line."""
    for _ in range(2):
        call("keys", "add", "shop")
    assert call("keys", "revoke", "shop") == (0, "Keys revoked: 2\n", "")
    given, printed, said = call("keys", "revoke", name)
    assert (given, printed) == (2, "")
    assert said.startswith("copilot-usage: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", [("list",), ("revoke", "shop")])
def test_no_database_is_made_to_look_into(
    command: tuple[str, ...], database_file: Path, call: Call
) -> None:
    """`keys list` reports a missing file, and does not create it."""
    said = f"storage.url: sqlite+aiosqlite:///{database_file}: there is no such file"
    assert call("keys", *command) == (1, "", f"copilot-usage: {said}\n")
    assert not database_file.parent.exists()


def test_no_database_is_made_by_accident(
    database_file: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`keys add` names the missing file, and creates it only if it is told to."""
    folder = database_file.parent.parent
    monkeypatch.chdir(folder)
    monkeypatch.setenv(
        "COPILOT_USAGE_STORAGE__URL", "sqlite+aiosqlite:///var/events.db"
    )
    status, printed, said = call("keys", "add", "shop")

    assert (status, printed) == (2, "")
    assert said.startswith(f"copilot-usage: storage.url: there is no {database_file}; ")
    assert said.count("\n") == 1
    assert list(folder.iterdir()) == []
    assert call("keys", "add", "shop", "--create")[0] == 0
    assert call("keys", "add", "shop")[0] == 0
    assert database_file.exists()


@pytest.mark.parametrize("command", ["migrate", "serve"])
def test_no_server_of_the_database(command: str, call: Call) -> None:
    """The line does not contain the password."""
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
def test_an_invalid_database_is_not_changed(workers: str, database_file: Path) -> None:
    """A file that is no database stops the start, and is not changed."""
    database_file.parent.mkdir()
    database_file.write_bytes(b"not a database " * 100)
    done = finished("serve", "--port", "0", "--workers", workers)
    said = f"storage.url: sqlite+aiosqlite:///{database_file}: file is not a database"
    assert done.stderr.decode() == f"copilot-usage: {said}\n"
    assert (done.returncode, done.stdout) == (1, b"")
    assert database_file.read_bytes() == b"not a database " * 100
    assert list(database_file.parent.iterdir()) == [database_file]


def test_migrate(database_file: Path, call: Call) -> None:
    """It prints the schema of the database, also when nothing changes."""
    for _ in range(2):
        assert call("migrate") == (0, f"The database has the schema {SCHEMA}.\n", "")
    assert database_file.exists()


def test_migrate_to_a_revision(database_file: Path, call: Call) -> None:
    """`--to` goes back and forth; a refusal is one line, and changes nothing."""
    assert call("migrate")[0] == 0
    assert call("keys", "add", "shop")[0] == 0
    for revision in ("0002", "0003", "0002", SCHEMA):
        said = f"The database has the schema {revision}.\n"
        assert call("migrate", "--to", revision) == (0, said, "")

    at = f"storage.url: sqlite+aiosqlite:///{database_file}"
    lost = "revision base has no place for the rows of keys; --drop-rows drops them for"
    refused = f"copilot-usage: {at}: {lost} ever\n"
    assert call("migrate", "--to", "base") == (1, "", refused)
    known = ", ".join(["base", *revisions()])
    refused = f"copilot-usage: --to 9: expected one of {known}\n"
    assert call("migrate", "--to", "9") == (2, "", refused)
    assert "shop" in call("keys", "list")[1]

    said = "The database has the schema base.\n"
    assert call("migrate", "--to", "base", "--drop-rows") == (0, said, "")


def test_migrate_rewrites_an_old_file(database_file: Path, call: Call) -> None:
    """It says so once for a file that was created by an older version."""
    assert call("migrate")[0] == 0
    with closing(sqlite3.connect(database_file)) as connection:
        connection.executescript("PRAGMA auto_vacuum = NONE; VACUUM")

    migrated = f"The database has the schema {SCHEMA}.\n"
    rewritten = "The file was rewritten; it now gives free space back.\n"
    assert call("migrate") == (0, migrated + rewritten, "")
    assert call("migrate") == (0, migrated, "")


# --- config -------------------------------------------------------------------------


def test_config_is_toml_when_piped() -> None:
    """A program reads it as TOML, whatever the width of a terminal nearby."""
    done = finished("config", environment={"COLUMNS": "20"})
    assert (done.returncode, done.stderr) == (0, b"")
    defaults = tomllib.loads((ROOT / "config/default.toml").read_text())
    assert tomllib.loads(done.stdout.decode()) == defaults


@pytest.mark.parametrize("command", ["config", "serve"])
def test_an_invalid_setting(command: str, tmp_path: Path, call: Call) -> None:
    """An invalid setting stops the start, named in one line."""
    file = tmp_path / "our.toml"
    file.write_text("[server]\nprot = 1\n")
    said = f"copilot-usage: server.prot: unknown setting (from {file})\n"
    assert call(*command.split(), "--config", str(file)) == (2, "", said)


# --- the whole ----------------------------------------------------------------------


def test_without_arguments_it_helps(call: Call) -> None:
    """Without arguments the commands are listed, with exit status 0."""
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
