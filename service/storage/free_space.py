"""Free space of a SQLite file: pages that removed rows leave, given back to the disk.

A file can only shrink in steps if it was created with `auto_vacuum = INCREMENTAL`, or
rewritten with it once.
"""

from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.storage.engines import SHRINKABLE

INCREMENTAL: Final = 2
"""Value of `PRAGMA auto_vacuum` that permits to shrink the file in steps."""
KEPT_SHARE: Final = 0.1
"""Share of the pages that stays free for new rows: growing costs more than reuse."""


async def is_shrinkable(connection: AsyncConnection) -> bool:
    """Return True if the file can shrink in steps."""
    return await _pragma(connection, "auto_vacuum") == INCREMENTAL


async def release(connection: AsyncConnection, limit: int) -> int:
    """Give up to `limit` free pages back; return their number.

    The file itself shrinks at the next checkpoints.
    """
    kept = int(await _pragma(connection, "page_count") * KEPT_SHARE)
    free = await _pragma(connection, "freelist_count")
    pages = min(limit, free - kept)
    if pages <= 0:
        return 0
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection  # aiosqlite.Connection
    # Each step of the statement frees one page, and only a script takes all of its
    # steps. A script commits first, so this is a transaction of its own.
    await driver.executescript(f"PRAGMA incremental_vacuum({pages})")
    return pages


async def rewrite(engine: AsyncEngine) -> None:
    """Rewrite the file once, so that it can shrink in steps afterwards."""
    raw = await engine.raw_connection()
    try:
        driver: Any = raw.driver_connection  # aiosqlite.Connection
        await driver.execute(SHRINKABLE)
        await driver.execute("VACUUM")
    finally:
        raw.close()


async def _pragma(connection: AsyncConnection, name: str) -> int:
    return int((await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one())
