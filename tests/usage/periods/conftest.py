"""Services that keep the periods of the sandbox in a database."""

import shutil
import zlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from sqlalchemy import select, update
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.storage.database import Database, open_database
from service.storage.uses import Use
from service.usage.periods.statements import sealing
from service.usage.periods.tables import chunks
from service.usage.snapshots.kept import KeptColumns, digest_of
from tests.conftest import Client, MakeClient, message, report, storage_at

KEPT = frozenset({"usage.period_opened", "usage.period_kept", "usage.period_doubtful"})

Keep = Callable[..., Awaitable[None]]
Messages = Sequence[dict[str, object]]
Sealed = Callable[[int], Awaitable[None]]

MONTHS: Final[list[Messages]] = [
    [
        message(
            10 * month + each,
            f"What is due in month {month}?",
            timestamp=f"2024-0{month}-0{each}T10:00:00Z",
            **({"report_id": 7} if each == 2 else {}),
        )
        for each in range(1, 4)
    ]
    for month in range(1, 5)
]
"""Four periods; a report prices the second message of each."""
HOSTILE_NAME: Final = '=HYPERLINK("https://x.test";"a, b")'


@pytest.fixture
async def keeping(storage: StorageSettings, client: MakeClient) -> Client:
    """Return a service that keeps periods; each request refreshes."""
    # In this order, the service ends before its database is dropped.
    return await keeping_client(client, storage)


@pytest.fixture
async def in_file(client: MakeClient, tmp_path: Path, empty_file: Path) -> Client:
    """Return a service that keeps periods in SQLite."""
    file = shutil.copy(empty_file, tmp_path / "kept.db")
    return await keeping_client(client, storage_at(f"sqlite+aiosqlite:///{file}"))


async def keeping_client(
    client: MakeClient, storage: StorageSettings, **periods: object
) -> Client:
    """Start a service on a database, with settings of kept periods."""
    return await client(
        storage={"url": storage.url},
        periods={"enabled": True, **periods},
        cache={"confirm_shrink_s": 0.0},
    )


@pytest.fixture
def keep(
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
    until: Callable[[Callable[[], bool]], Awaitable[None]],
) -> Keep:
    """Have a service fetch these messages, and wait until it has kept them."""

    async def fetch_and_keep(service: Client, messages: Messages) -> None:
        sandbox.sandbox.set_messages(messages)
        before = len(kept(log_entries))
        answer = await service.get("/usage")
        assert answer.status == 200
        await until(lambda: len(kept(log_entries)) > before)

    return fetch_and_keep


@pytest.fixture
def sealed(
    monkeypatch: pytest.MonkeyPatch,
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
    until: Callable[[Callable[[], bool]], Awaitable[None]],
) -> Sealed:
    """Let services seal soon, and return what waits for a number of statements."""
    seal_soon(monkeypatch)
    sandbox.sandbox.set_report(7, report(7, HOSTILE_NAME, 79))

    async def wait(number: int) -> None:
        await until(lambda: len(sealed_in(log_entries)) >= number)

    return wait


@pytest.fixture
async def unsealed(
    storage: StorageSettings,
    client: MakeClient,
    sandbox: RunningSandbox,
    keep: Keep,
    monkeypatch: pytest.MonkeyPatch,
) -> Client:
    """Return a service that has closed three periods, and seals none."""
    monkeypatch.setattr(sealing, "EVERY_S", 3_600.0)
    sandbox.sandbox.set_report(7, report(7, HOSTILE_NAME, 79))
    service = await keeping_client(client, storage)
    for each in MONTHS:
        await keep(service, each)
    return service


def seal_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let services that start from now on seal periods soon after they close."""
    monkeypatch.setattr(sealing, "EVERY_S", 0.01)


def sealed_in(entries: list[EventDict]) -> list[EventDict]:
    """Return the log entries of sealed periods."""
    return [each for each in entries if each["event"] == "usage.period_sealed"]


def kept(entries: list[EventDict]) -> list[EventDict]:
    """Return the log entries that tell what was done with a snapshot."""
    return [each for each in entries if each["event"] in KEPT]


async def periods_of(service: Client) -> list[dict[str, Any]]:
    """Return the listed periods, the newest first."""
    answer = await service.get("/usage/periods")
    listed: list[dict[str, Any]] = (await answer.json())["periods"]
    return listed


async def changes_of(service: Client, query: str = "") -> dict[str, Any]:
    """Return the changes of a period."""
    answer = await service.get(f"/usage/changes?{query}")
    assert answer.status == 200
    changes: dict[str, Any] = await answer.json()
    return changes


async def contents_of(storage: StorageSettings) -> list[bytes]:
    """Return the contents of all stored chunks."""
    async with open_database(storage) as database, database.reading() as connection:
        return list((await connection.execute(select(chunks.c.content))).scalars())


async def alter_chunks(
    storage: StorageSettings,
    alter: Callable[[bytes], bytes],
    *,
    number: int | None = None,
) -> None:
    """Give stored chunks other contents, as a disk or a person may.

    Without the number of a period, those of all.
    """
    async with (
        open_database(storage) as database,
        database.writing(Use.PERIODS) as connection,
    ):
        for row in (await connection.execute(select(chunks))).all():
            if number not in {None, row.period_number}:
                continue
            altered = update(chunks).where(chunks.c.digest == row.digest)
            await connection.execute(altered.values(content=alter(row.content)))


class EncodedChunk(NamedTuple):
    """A chunk as it is stored."""

    digest: bytes
    content: bytes


async def chunk_of(database: Database, number: int) -> tuple[bytes, bytes]:
    """Return the content and the digest of the only chunk of a period."""
    query = select(chunks).where(chunks.c.period_number == number)
    async with database.reading() as connection:
        row = (await connection.execute(query)).one()
    return row.content, row.digest


def encoded(chunk: KeptColumns) -> EncodedChunk:
    """Return a chunk with another content as somebody else would store it."""
    content = msgspec.msgpack.encode(chunk)
    return EncodedChunk(digest_of(content), zlib.compress(content))
