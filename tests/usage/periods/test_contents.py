"""Chunks are stored in parts, and again if those of an open period are damaged."""

from typing import Any, Final

import pytest
from sqlalchemy import delete, update
from structlog.typing import EventDict

from service.settings import StorageSettings
from service.storage.database import open_database
from service.storage.uses import Use
from service.usage.periods.store import CHUNKS_AT_ONCE, PeriodStore
from service.usage.periods.tables import changes, chunks
from service.usage.snapshots import chunking
from service.usage.snapshots.kept import StoredChunk
from service.usage.snapshots.store import SnapshotStore
from tests.conftest import Client, message
from tests.usage.periods.conftest import Keep, alter_chunks, changes_of, periods_of

COUNT: Final = 9_000
"""Messages of several chunks."""
ROWS: Final = 300
"""Messages of a smaller chunk."""


async def _damage(storage: StorageSettings, kind: str) -> None:
    if kind == "nonsense":
        await alter_chunks(storage, lambda _: b"nonsense")
        return
    async with (
        open_database(storage) as database,
        database.writing(Use.PERIODS) as connection,
    ):
        await connection.execute(delete(chunks))


async def test_a_first_revision_is_stored_in_parts(
    keeping: Client, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole period is never in the memory of the serving process as chunks."""
    steps: list[tuple[str, int]] = []
    add, encode = PeriodStore.add_chunks, SnapshotStore.encode_chunk

    async def noted_add(
        store: PeriodStore, number: int, some: list[StoredChunk]
    ) -> None:
        steps.append(("add", len(some)))
        await add(store, number, some)

    def noted_encode(store: SnapshotStore, *rows: Any) -> bytes:
        steps.append(("encode", 1))
        return encode(store, *rows)

    monkeypatch.setattr(PeriodStore, "add_chunks", noted_add)
    monkeypatch.setattr(SnapshotStore, "encode_chunk", noted_encode)
    monkeypatch.setattr(chunking, "MAX_ROWS", ROWS)
    await keep(keeping, list(map(message, range((2 * CHUNKS_AT_ONCE + 1) * ROWS))))
    full = [("encode", 1)] * CHUNKS_AT_ONCE + [("add", CHUNKS_AT_ONCE)]
    assert steps == [*full, *full, ("encode", 1), ("add", 1)]


@pytest.mark.parametrize("kind, count", [("nonsense", 3), ("missing", COUNT)])
async def test_a_damaged_open_period_is_stored_again(
    keeping: Client, storage: StorageSettings, keep: Keep, kind: str, count: int
) -> None:
    """All its answers are right again, and its changes explain its total."""
    month = [
        message(each, "word " * (each % 7), timestamp=f"2024-04-{1 + each % 28:02}")
        for each in range(count + 1)
    ]
    await keep(keeping, month[:-1])
    await _damage(storage, kind)
    await keep(keeping, month[1:])
    (period,) = await periods_of(keeping)
    assert (period["revision"], period["messages"]) == (2, count)
    for path in ("/usage?", "/usage?limit=5&"):
        current = await keeping.get(path.removesuffix("?").removesuffix("&"))
        of_period = await keeping.get(f"{path}period=2024-04-01")
        assert of_period.status == 200
        assert await of_period.read() == await current.read()
    found = await changes_of(keeping, "since=1")
    named = [(each["kind"], each["message_id"]) for each in found["changes"]]
    assert named == [("removed", 0), ("added", count)]
    explained = sum(
        each["credits_after"] - each["credits_before"] for each in found["changes"]
    )
    total = found["credits_after"] - found["credits_before"]
    assert explained == pytest.approx(total)


async def test_the_next_period_follows_a_damaged_one(
    keeping: Client, storage: StorageSettings, keep: Keep, log_entries: list[EventDict]
) -> None:
    """Ids that begin again belong to the next period, and the chunk is named."""
    await keep(keeping, [message(1, timestamp="2024-04-29")])
    await _damage(storage, "nonsense")
    await keep(keeping, [message(1, timestamp="2024-05-29")])
    names = [(each["period"], each["status"]) for each in await periods_of(keeping)]
    assert names == [("2024-05-29", "open"), ("2024-04-29", "closed")]
    (entry,) = (each for each in log_entries if each["event"] == "usage.period_damaged")
    assert entry["period"] == "2024-04-29"


async def test_damaged_changes_are_named(
    keeping: Client, keep: Keep, storage: StorageSettings
) -> None:
    """The list of changes is refused, and all other answers are not."""
    await keep(keeping, [message(1, timestamp="2024-04-29")])
    async with (
        open_database(storage) as database,
        database.writing(Use.PERIODS) as connection,
    ):
        await connection.execute(update(changes).values(content=b"nonsense"))
    answer = await keeping.get("/usage/changes")
    assert (answer.status, (await answer.json())["code"]) == (500, "period_damaged")
    assert (await keeping.get("/usage?period=2024-04-29")).status == 200
