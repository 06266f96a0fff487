"""A service that needs its database for periods alone starts and answers without it."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.typing import EventDict

from service.app import check_storage
from service.sandbox.server import RunningSandbox
from service.storage.errors import StorageUnusable
from service.usage.periods.keeping import recorder
from tests.conftest import MakeClient, MakeSettings, message
from tests.ports import free_port
from tests.usage.periods.conftest import periods_of

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def unusable(tmp_path: Path) -> str:
    """The URL of a file in a folder that cannot be created."""
    (tmp_path / "file").touch()
    return f"sqlite+aiosqlite:///{tmp_path}/file/kept.db"


async def test_usage_is_answered_without_a_database(
    client: MakeClient,
    sandbox: RunningSandbox,
    unusable: str,
    log_entries: list[EventDict],
    until: Until,
) -> None:
    """The reason is logged once, and periods get 503."""
    sandbox.sandbox.set_messages([message(1)])
    service = await client(storage={"url": unusable}, periods={"enabled": True})
    answer = await service.get("/usage")
    assert (answer.status, len((await answer.json())["usage"])) == (200, 1)
    assert (await service.get("/usage/periods")).status == 503
    await until(
        lambda: any(each["event"] == "usage.keeping_failed" for each in log_entries)
    )


async def test_periods_are_kept_once_the_database_is_there(
    client: MakeClient,
    sandbox: RunningSandbox,
    tmp_path: Path,
    empty_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No restart is needed."""
    monkeypatch.setattr(recorder, "RETRY_S", 0.0)
    folder = tmp_path / "later"
    folder.touch()
    url = f"sqlite+aiosqlite:///{folder}/kept.db"
    sandbox.sandbox.set_messages([message(1)])
    service = await client(storage={"url": url}, periods={"enabled": True})
    assert (await service.get("/usage")).status == 200
    folder.unlink()
    folder.mkdir()
    shutil.copy(empty_file, folder / "kept.db")
    while (await service.get("/usage/changes")).status != 200:
        pass
    (period,) = await periods_of(service)
    assert period["messages"] == 1


@pytest.mark.parametrize("domain", ["events", "vehicles"])
async def test_other_domains_need_the_database(
    settings: MakeSettings, unusable: str, domain: str
) -> None:
    """They would lose data, or answer nothing."""
    stored = {"url": unusable}
    optional = settings(storage=stored, periods={"enabled": True})
    await check_storage(optional)
    needed = settings(
        storage=stored, periods={"enabled": True}, **{domain: {"enabled": True}}
    )
    with pytest.raises(StorageUnusable):
        await check_storage(needed)


async def test_a_database_that_does_not_answer_delays_no_start(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """PostgreSQL may be away too."""
    sandbox.sandbox.set_messages([message(1)])
    url = f"postgresql+asyncpg://nobody@127.0.0.1:{free_port()}/none"
    service = await client(storage={"url": url}, periods={"enabled": True})
    assert (await service.get("/usage")).status == 200
