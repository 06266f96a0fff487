"""Operation by hand of several workers, which are processes."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from service.admin import siblings
from service.keys.store import SANDBOX_KEY, add_key
from service.sandbox.faults import MESSAGES_PATH
from service.sandbox.options import SandboxOptions
from service.sandbox.server import running_sandbox
from service.storage.database import open_database
from tests.conftest import message, storage_at
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.redis_servers import RedisServer
from tests.running import Running, ask_once, exit_status, running, until

KEY: Final = {"Authorization": f"Bearer {SANDBOX_KEY}"}


def serving(tmp_path: Path, workers: int = 2, **settings: object) -> Any:
    """Run a service whose sandbox key is valid."""
    stored = {"events__enabled": True, "server__drain_s": 0.0}
    url = f"sqlite+aiosqlite:///{tmp_path}/events.db"
    options = ("--workers", str(workers))
    return running(tmp_path / "log", *options, **stored, storage__url=url, **settings)


async def order(
    port: int,
    path: str,
    body: object = None,
    method: str = "POST",
    key: Mapping[str, str] = KEY,
) -> tuple[int, Any]:
    """Send an order on a connection of its own; return status and body."""
    url = f"http://127.0.0.1:{port}/admin/{path}"
    async with (
        aiohttp.ClientSession(headers=key) as session,
        asyncio.timeout(GIVE_UP_S),
        session.request(method, url, json=body) as answer,
    ):
        return answer.status, await answer.json()


async def state(port: int, key: Mapping[str, str] = KEY) -> Any:
    """Return the state of all workers."""
    status, body = await order(port, "state", method="GET", key=key)
    assert status == 200
    return body


async def all_listed(
    port: int, workers: int, key: Mapping[str, str] = KEY
) -> list[int]:
    """Wait until all workers are listed, and return their process ids."""
    async with asyncio.timeout(GIVE_UP_S):
        while len(found := (await state(port, key))["workers"]) < workers:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return sorted(each["pid"] for each in found)


async def end(service: Running) -> None:
    """Stop a service in order."""
    service.process.send_signal(signal.SIGTERM)
    assert await exit_status(service.process) == 0
    assert service.events("service.shutdown_forced") == []


async def test_orders_reach_all_workers(tmp_path: Path) -> None:
    """Each worker carries out what one of them was told."""
    with serving(tmp_path) as service:
        pids = await all_listed(service.port, 2)
        _, refreshed = await order(service.port, "refresh")
        _, levels = await order(service.port, "log-level", {"level": "error"})
        _, circuits = await order(service.port, "circuit/copilot", {"state": "open"})
        listed = await state(service.port)
        status, failed = await order(service.port, "refresh")
        _, judged = await order(service.port, "circuit/copilot", {"state": "auto"})
        await end(service)

    for answer in (refreshed, levels, circuits, judged, listed):
        assert sorted(each["pid"] for each in answer["workers"]) == pids
        assert answer["unreachable"] == []
    assert {each["outcome"] for each in refreshed["workers"]} == {"refreshed"}
    for each in listed["workers"]:
        assert each["log_level"] == "error"
        assert each["snapshot"]["messages"] > 0
        assert each["circuits"]["copilot"]["state"] == "open"
    assert sum(each["connections"] for each in listed["workers"]) >= 1
    assert (status, failed["code"]) == (503, "refresh_failed")


async def test_schemas_are_read_by_all_workers_or_by_none(tmp_path: Path) -> None:
    """A bad file changes nothing in any worker; good ones are used by all."""
    file = tmp_path / "types" / "c" / "n.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    folder = str(file.parent.parent)
    with serving(tmp_path, events__types_folder=folder) as service:
        pids = await all_listed(service.port, 2)
        (file.parent / "more.json").write_text("{")
        refused = await order(service.port, "schemas/reload")
        (file.parent / "more.json").write_text("{}")
        status, read = await order(service.port, "schemas/reload")
        await end(service)

    assert (refused[0], refused[1]["code"]) == (409, "schemas_refused")
    assert "more.json" in refused[1]["detail"]
    assert status == 200
    assert sorted(each["pid"] for each in read["workers"]) == pids
    assert [each["types"] for each in read["workers"]] == [2, 2]
    assert len({each["revision"] for each in read["workers"]}) == 1


async def test_workers_that_hang_or_have_ended(tmp_path: Path) -> None:
    """A worker that hangs is listed; one that was killed is not, and its file goes."""
    with serving(tmp_path) as service:
        pids = await all_listed(service.port, 2)
        hanging, other = pids
        os.kill(hanging, signal.SIGSTOP)
        try:
            # The kernel may give a connection to the one that hangs.
            async with asyncio.timeout(GIVE_UP_S):
                answers = [asyncio.create_task(state(service.port)) for _ in range(8)]
                done, _ = await asyncio.wait(
                    answers, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            os.kill(hanging, signal.SIGCONT)
        assert {each["pid"] for each in done.pop().result()["workers"]} == {other}
        await asyncio.gather(*answers)
        os.kill(hanging, signal.SIGKILL)
        await until(lambda: len(service.events("worker.started")) == 3)

        assert hanging not in await all_listed(service.port, 2)
        assert (await state(service.port))["unreachable"] == []
        await end(service)


def folders() -> Sequence[Path]:
    """The folders of the sockets of all services on this machine."""
    return list(Path(tempfile.gettempdir()).glob(f"{siblings.FOLDER_PREFIX}*"))


async def test_folders_are_private_and_do_not_stay(tmp_path: Path) -> None:
    """Only the user may enter; a killed service leaves it to the next start."""
    with serving(tmp_path) as service:
        await all_listed(service.port, 2)
        (folder,) = [e for e in folders() if f"-{service.process.pid}-" in e.name]
        assert folder.stat().st_mode & 0o777 == 0o700
        service.process.send_signal(signal.SIGHUP)
        await until(lambda: not folder.exists())
        (folder,) = [e for e in folders() if f"-{service.process.pid}-" in e.name]
        pids = await all_listed(service.port, 2)
        service.process.kill()
        service.process.wait()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    siblings.make_folder()

    assert not folder.exists()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_port_for_operators(workers: int, tmp_path: Path) -> None:
    """Only it answers operators, also after a reload; it is closed at the end."""
    port = free_port()
    with serving(tmp_path, workers, server__admin_port=port) as service:
        await all_listed(port, workers)
        for number in range(2):
            for path in ("/health/live", "/metrics"):
                assert (await ask_once(port, path)).status == 200
                assert (await ask_once(service.port, path)).status == 200
            for at, path in ((port, "/usage"), (service.port, "/admin/state")):
                answer = await ask_once(at, path)
                assert answer.status == 404
                assert json.loads(answer.body)["code"] == "not_found"
            assert (await ask_once(service.port, "/usage")).status == 200
            if not number:
                service.process.send_signal(signal.SIGHUP)
                await until(lambda: len(service.events("service.started")) == 2)
        await all_listed(port, workers)
        await end(service)

    with pytest.raises(ConnectionRefusedError):
        await ask_once(port, "/health/live")


async def test_a_taken_port_for_operators_is_named(tmp_path: Path) -> None:
    """The error of the start names the setting."""
    port = free_port()
    with serving(tmp_path, 1, server__admin_port=port):
        (tmp_path / "other").mkdir()
        with (
            pytest.raises(AssertionError, match=r"server\.admin_port"),
            serving(tmp_path / "other", 1, server__admin_port=port),
        ):
            pass


@pytest.mark.services
async def test_workers_that_share_refreshes_fetch_once(
    server: RedisServer, tmp_path: Path
) -> None:
    """The others adopt what one worker has fetched, also if theirs is fresh."""
    database_url = f"sqlite+aiosqlite:///{tmp_path}/events.db"
    async with open_database(storage_at(database_url)) as database:
        key = {"X-API-Key": await add_key(database, "operators", ["admin"])}
    async with running_sandbox(SandboxOptions(messages=0, reports=0)) as sandbox:
        shared: dict[str, Any] = {
            "sandbox__enabled": False,
            "upstream__base_url": sandbox.url,
            "cache__redis_url": server.url,
        }
        with serving(tmp_path, **shared) as service:
            await all_listed(service.port, 2, key)
            for fetches in (1, 2):
                sandbox.sandbox.set_messages([message(each) for each in range(fetches)])

                status, answer = await order(service.port, "refresh", key=key)

                assert (status, answer["unreachable"]) == (200, [])
                snapshots = [each["snapshot"] for each in answer["workers"]]
                assert [each["messages"] for each in snapshots] == [fetches] * 2
                assert len({each["revision"] for each in snapshots}) == 1
                assert sandbox.sandbox.calls[MESSAGES_PATH] == fetches
            await end(service)
