"""SIGHUP: code and settings are checked, and take effect without a lost request."""

import asyncio
import os
import pty
import shutil
import signal
import socket
import sqlite3
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from aiohttp import ClientSession

from service.keys.store import SANDBOX_KEY
from service.server.checks import VALID, reason_in
from service.server.handover import VARIABLE, Handover
from service.server.shutdown import Ending
from service.storage.database import migrate, open_database
from service.storage.migrations import downgrade, revisions
from service.web.sessions import COOKIE
from service.web.system import VERSION
from tests.conftest import storage_at
from tests.isolation.callers import HOST, Tally, calling
from tests.isolation.conftest import Run
from tests.isolation.test_drains import LOAD, WORKERS, received, until_answered
from tests.leftovers import processes
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import (
    ROOT,
    SERVE,
    SERVICE,
    Running,
    ask_once,
    exit_status,
    started,
    until,
    until_ready,
    until_unready,
)

SLOW_DRAIN: Final = {"server__drain_s": 3.0}
REQUEST: Final = b"GET /health/live HTTP/1.1\r\nHost: a.test\r\n\r\n"


def write(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)
    file.write_text(text)


def hang_up(service: Running) -> None:
    service.process.send_signal(signal.SIGHUP)


async def reloaded(service: Running, times: int = 1) -> None:
    """Wait until the service has started again."""
    await until(
        lambda: (
            len(service.events("service.started")) > times
            or service.process.poll() is not None
        )
    )
    assert service.process.poll() is None


async def refused(service: Running) -> str:
    """Wait for the refusal of a reload; gives its reason."""
    await until(lambda: bool(service.events("service.reload_refused")))
    (refusal,) = service.events("service.reload_refused")
    assert refusal["level"] == "error"
    return str(refusal["reason"])


async def end(service: Running) -> None:
    """Stop the service, which must have started as often as it reloaded."""
    service.process.send_signal(signal.SIGTERM)
    assert await exit_status(service.process) == 0
    starts = len(service.events("service.started"))
    assert starts == len(service.events("service.reloading")) + 1


async def reload_under_load(
    run: Run, tmp_path: Path, reloads: int, workers: int
) -> Tally:
    """Reload a service again and again under load."""
    with run(tmp_path / "log", "--workers", str(workers), **LOAD) as service:
        async with calling(service.port) as tally:
            for number in range(reloads):
                await until_answered(tally, service)
                hang_up(service)
                await reloaded(service, number + 1)
            await until_answered(tally, service)
        await end(service)
        assert service.events("service.shutdown_forced") == []
        starts = service.events("service.started")
    assert {each["process.pid"] for each in starts} == {service.process.pid}
    assert {each["service.version"] for each in starts} == {VERSION}
    assert {each["url.full"] for each in starts} == {f"http://{HOST}:{service.port}"}
    return tally


@pytest.mark.parametrize("workers, reloads", [(1, 1), (2, 2)])
async def test_no_request_fails_in_reloads(
    run: Run, workers: int, reloads: int, tmp_path: Path
) -> None:
    """With a connection for each request, none is refused, reset or unanswered."""
    tally = await reload_under_load(run, tmp_path, reloads, workers)

    assert tally.failures == []
    assert tally.refused == 0


async def test_old_workers_finish_their_requests(run: Run, tmp_path: Path) -> None:
    """A request in flight is answered by its old worker; all old workers end."""
    slow = {"sandbox__latency_ms": 3_000.0, "server__drain_s": 0.0}
    with run(tmp_path / "log", "--workers", "2", **slow) as service:
        await until(lambda: len(service.events("worker.started")) == 2)
        old = {each["process.pid"] for each in service.events("worker.started")}
        request = asyncio.create_task(ask_once(service.port, "/usage"))
        await until(lambda: bool(service.events("usage.refresh.started")))
        hang_up(service)

        assert (await request).status == 200
        await until(lambda: len(service.events("worker.exited")) >= 2)
        assert {e["process.pid"] for e in service.events("worker.exited")} == old
        await end(service)


# --- what is checked ----------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file of settings that changes nothing."""
    file = tmp_path / "config.toml"
    file.write_text("")
    return file


def break_settings(tmp_path: Path) -> str:
    (tmp_path / "config.toml").write_text("[server]\nport = 'none'\n")
    return "server.port"


def break_toml(tmp_path: Path) -> str:
    (tmp_path / "config.toml").write_text("[server")
    return "not TOML"


def break_a_schema(tmp_path: Path) -> str:
    folder = tmp_path / "types" / "shop"
    folder.mkdir(parents=True)
    (folder / "order.json").write_text("{")
    text = f"[events]\ntypes_folder = {str(tmp_path / 'types')!r}\n"
    (tmp_path / "config.toml").write_text(text)
    return "order.json"


def use_a_newer_database(tmp_path: Path) -> str:
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'newer'")
    database.close()
    return "revision newer"


@pytest.mark.parametrize(
    "spoil, workers",
    [
        pytest.param(break_settings, 1, id="settings"),
        pytest.param(break_toml, 2, id="TOML, two workers"),
        pytest.param(break_a_schema, 2, id="schema, two workers"),
        pytest.param(use_a_newer_database, 1, id="database"),
    ],
)
async def test_a_reload_that_would_fail_is_refused(
    run: Run, spoil: Callable[[Path], str], workers: int, config: Path, tmp_path: Path
) -> None:
    """One line names the reason, and the service goes on."""
    stored = {
        "events__enabled": True,
        "storage__url": f"sqlite+aiosqlite:///{tmp_path}/events.db",
        "server__drain_s": 0.0,
    }
    options = ("--config", str(config), "--workers", str(workers))
    with run(tmp_path / "log", *options, **stored) as service:
        reason = spoil(tmp_path)
        hang_up(service)

        assert reason in await refused(service)
        await until_ready(service.port)
        await end(service)


async def test_a_check_does_not_migrate(tmp_path: Path) -> None:
    """An older database would be migrated by a start, and a check leaves it."""
    file = tmp_path / "events.db"
    storage = storage_at(f"sqlite+aiosqlite:///{file}")
    await migrate(storage)
    older = revisions()[-2]
    async with open_database(storage) as database, database.writing() as connection:
        await connection.run_sync(downgrade, older)
    variables = environment(tmp_path) | {"COPILOT_USAGE_EVENTS__ENABLED": "true"}
    check = await asyncio.create_subprocess_exec(
        *(*SERVE, "--check"), env=os.environ | variables, cwd=ROOT, stdout=PIPE
    )
    output, _ = await check.communicate()

    assert (check.returncode, output.decode()) == (0, f"{VALID}\n")
    with sqlite3.connect(file) as opened:
        rows = opened.execute("SELECT version_num FROM alembic_version").fetchall()
    opened.close()
    assert rows == [(older,)]


async def test_code_that_does_not_load_is_refused(tmp_path: Path) -> None:
    """A broken new version of the service is not executed."""
    for folder in ("service", "config"):
        shutil.copytree(ROOT / folder, tmp_path / "code" / folder)
    with started(tmp_path / "log", SERVE, {}, tmp_path / "code") as service:
        write(tmp_path / "code" / "service" / "instants.py", "def (")
        hang_up(service)

        assert "SyntaxError" in await refused(service)
        await end(service)


async def test_a_port_in_use_is_refused(run: Run, config: Path, tmp_path: Path) -> None:
    """The new address must be free, while that of the running service is its own."""
    port = free_port()
    write(config, f"[server]\nport = {port}\n")
    options = ("--config", str(config))
    with (
        run(tmp_path / "log", *options, port=None, server__drain_s=0.0) as service,
        socket.create_server((HOST, 0)) as taken,
    ):
        write(config, f"[server]\nport = {taken.getsockname()[1]}\n")
        hang_up(service)

        assert "in use" in await refused(service)
        assert service.port == port
        await end(service)


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("after", [1, 2])
async def test_a_new_address_and_number_of_workers(
    before: int, after: int, config: Path, tmp_path: Path
) -> None:
    """The service listens at the new address only; the old one lost no request."""
    old, new = free_port(), free_port()
    write(config, f"[server]\nport = {old}\nworkers = {before}\n")
    # Not in a fork, so that the coverage of reloads is measured.
    command = (*SERVICE, "serve", "--config", str(config))
    with started(tmp_path / "log", command, LOAD) as service:
        async with calling(old) as tally:
            await until_answered(tally, service)
            write(config, f"[server]\nport = {new}\nworkers = {after}\n")
            hang_up(service)
            await reloaded(service)
            await until(lambda: tally.refused > 0)
        async with calling(new) as there:
            await until_answered(there, service)
        await end(service)

    assert tally.failures == there.failures == []


# --- signals at odd times -----------------------------------------------------------


@pytest.fixture
def hanging(config: Path) -> Callable[[], None]:
    """A function that has each check hang: it waits for a writer of the settings."""

    def hang() -> None:
        config.unlink()
        os.mkfifo(config)

    return hang


@pytest.mark.parametrize("workers", WORKERS)
async def test_a_check_has_a_time_limit(
    run: Run, workers: int, config: Path, hanging: Callable[[], None], tmp_path: Path
) -> None:
    """A check that hangs is ended, and the reload refused."""
    options = ("--config", str(config), "--workers", str(workers))
    brief = {"server__reload_check_s": 0.5, "server__drain_s": 0.0}
    with run(tmp_path / "log", *options, **brief) as service:
        hanging()
        hang_up(service)

        assert await refused(service) == "the check has not ended within 0.5 s"
        await end(service)


@pytest.mark.parametrize("workers", WORKERS)
async def test_sigterm_during_a_check(
    run: Run, workers: int, config: Path, hanging: Callable[[], None], tmp_path: Path
) -> None:
    """The service ends, and the check with it."""
    options = ("--config", str(config), "--workers", str(workers))
    with run(tmp_path / "log", *options, server__drain_s=0.0) as service:
        hanging()
        hang_up(service)
        await until(lambda: bool(checks_of(service)))
        (check,) = checks_of(service)
        await end(service)

        assert check not in {each.pid for each in processes()}


@pytest.mark.parametrize("workers", WORKERS)
async def test_another_sighup_during_a_check(
    run: Run, workers: int, config: Path, hanging: Callable[[], None], tmp_path: Path
) -> None:
    """The check begins again, with the present settings; there is one reload."""
    options = ("--config", str(config), "--workers", str(workers))
    with run(tmp_path / "log", *options, server__drain_s=0.0) as service:
        hanging()
        hang_up(service)
        await until(lambda: bool(checks_of(service)))
        write(config, "")
        hang_up(service)

        await reloaded(service)
        await end(service)
        assert len(service.events("service.reloading")) == 1


async def test_sighup_during_a_drain_is_ignored(run: Run, tmp_path: Path) -> None:
    """A service that is ending does not reload."""
    with run(tmp_path / "log", **SLOW_DRAIN) as service:
        service.process.send_signal(signal.SIGTERM)
        await until_unready(service.port)
        hang_up(service)

        assert await exit_status(service.process) == 0
        assert service.events("service.reloading") == []


async def test_sigterm_during_the_drain_of_a_reload(run: Run, tmp_path: Path) -> None:
    """The service becomes unready, drains, and ends instead of starting again."""
    with run(tmp_path / "log", **SLOW_DRAIN) as service:
        async with calling(service.port) as tally:
            await until_answered(tally, service)
            hang_up(service)
            await until(lambda: bool(service.events("service.reloading")))
            await until_ready(service.port)
            service.process.send_signal(signal.SIGTERM)
            await until_unready(service.port)
            assert await exit_status(service.process) == 0

        assert tally.failures == []
        assert len(service.events("service.started")) == 1


async def test_sigterm_while_workers_are_replaced(run: Run, tmp_path: Path) -> None:
    """All workers end, the old ones too, and lose no request."""
    with run(tmp_path / "log", "--workers", "2", **LOAD) as service:
        await until(lambda: len(service.events("worker.started")) == 2)
        async with calling(service.port) as tally:
            await until_answered(tally, service)
            hang_up(service)
            await until(lambda: bool(service.events("service.reloading")))
            service.process.send_signal(signal.SIGTERM)
            assert await exit_status(service.process) == 0
        workers = {each["process.pid"] for each in service.events("worker.started")}
        assert workers & {each.pid for each in processes()} == set()

    assert tally.failures == []


async def test_settings_that_break_after_the_check(
    run: Run, config: Path, tmp_path: Path
) -> None:
    """The program exits with the message of a first start."""
    options = ("--config", str(config))
    with run(tmp_path / "log", *options, **SLOW_DRAIN) as service:
        hang_up(service)
        await until(lambda: bool(service.events("service.reloading")))
        break_settings(tmp_path)

        assert await exit_status(service.process) == 2
        last = service.log.with_suffix(".errors").read_text().splitlines()[-1]
        assert last.startswith("copilot-usage: server.port: ")


async def test_a_signal_for_the_program_that_is_replaced(tmp_path: Path) -> None:
    """A stop that came too late for the old program ends the new one, in order.

    The connections that waited meanwhile get their answers.
    """
    with socket.create_server((HOST, 0)) as inherited:
        waiting = socket.create_connection(inherited.getsockname(), GIVE_UP_S)
        waiting.sendall(REQUEST)
        handed = Handover(sockets=[inherited.fileno()], signals=[signal.SIGTERM])
        process = await asyncio.create_subprocess_exec(
            *(*SERVE, "--sandbox"),
            env=os.environ | environment(tmp_path) | {VARIABLE: as_json(handed)},
            pass_fds=[inherited.fileno()],
            stdout=PIPE,
            stderr=PIPE,
            cwd=ROOT,
        )
    output, _ = await process.communicate()

    assert process.returncode == 0
    assert b'"service.started"' in output
    assert b'"status":"live"' in await asyncio.to_thread(received, waiting)


def test_a_stop_is_too_late_once_the_program_is_replaced() -> None:
    """Before that, it wins over a reload."""
    early, late = Ending(), Ending()
    early.keeps_listening = late.keeps_listening = True
    assert late.commit()

    assert early.stop()
    assert not early.commit()
    assert not late.stop()


async def test_a_closed_terminal_ends_the_service(tmp_path: Path) -> None:
    """SIGHUP of a terminal that is gone is no reload."""
    process_id, terminal = pty.fork()
    if not process_id:
        os.chdir(ROOT)
        # As in a terminal, also if the tests run under nohup(1).
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        variables = os.environ | environment(tmp_path)
        os.execve(SERVE[0], [*SERVE, "--sandbox"], variables)  # noqa: S606
    shown = b""
    while b"service.started" not in shown:
        shown += await asyncio.to_thread(os.read, terminal, 4_096)
    os.close(terminal)

    _, status = await asyncio.to_thread(os.waitpid, process_id, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def environment(tmp_path: Path) -> dict[str, str]:
    """Settings of a service that is started without `running`."""
    return {
        "COPILOT_USAGE_SERVER__DRAIN_S": "0.1",
        "COPILOT_USAGE_EVENTS__ENABLED": "false",
        "COPILOT_USAGE_VEHICLES__ENABLED": "false",
        "COPILOT_USAGE_LOGGING__FORMAT": "json",
        "COPILOT_USAGE_STORAGE__URL": f"sqlite+aiosqlite:///{tmp_path}/events.db",
    }


def as_json(handed: Handover) -> str:
    return handed.environment[VARIABLE]


def checks_of(service: Running) -> list[int]:
    """The processes that check a reload of a service."""
    return [
        each.pid
        for each in processes()
        if each.parent == service.process.pid and "--check" in each.command.split("\0")
    ]


@pytest.mark.parametrize(
    "errors, reason",
    [
        ("copilot-usage: server.port: bad\n", "server.port: bad"),
        ("Traceback:\n  File …\nValueError: odd\n\n", "ValueError: odd"),
        (
            "╭─ Error ──╮\n│ No such option: --x  │\n╰──────────╯\n",
            "No such option: --x",
        ),
        ("", ""),
    ],
)
def test_the_reason_is_one_line(errors: str, reason: str) -> None:
    """The last line with words names the reason, without decoration."""
    assert reason_in(errors) == reason


@pytest.mark.parametrize("workers", WORKERS)
async def test_browsers_stay_signed_in(workers: int, run: Run, tmp_path: Path) -> None:
    """All workers know a session, and so does the program that a reload executes."""
    settings = {
        "auth__require": "*",
        "storage__url": f"sqlite+aiosqlite:///{tmp_path}/a",
    }
    with run(tmp_path / "log", "--workers", str(workers), **settings) as service:
        url = f"http://{HOST}:{service.port}/session"
        async with (
            ClientSession() as browser,
            browser.post(url, json={"key": SANDBOX_KEY}) as answer,
        ):
            cookie = answer.cookies[COOKIE].value
        for number in range(2):
            statuses = [await status_with(url, cookie) for _ in range(20)]
            assert set(statuses) == {200}
            if not number:
                hang_up(service)
                await reloaded(service)
        await end(service)


async def status_with(url: str, cookie: str) -> int:
    """Ask with a cookie, on a connection of its own."""
    headers = {"Cookie": f"{COOKIE}={cookie}"}
    async with ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status
