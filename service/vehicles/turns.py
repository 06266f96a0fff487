"""Whose turn it is to ask for a VIN: one process asks, the others wait for its news.

A turn is a key in the shared store. Whoever waits looks at it until it is gone and then
into the database, where what was learnt is; only a failure is left in the key's place
for a moment. The key of a process that has died goes after half of a look-up's time:
who waited has the other half to ask. Without a store, or while it is away, every
process is alone: then two of them may ask for the same.
"""

import asyncio
import math
import random
import secrets
from collections.abc import Collection, Sequence
from typing import Any, Final, Protocol

from redis.asyncio.client import Pipeline

from service.settings import Settings
from service.storage.shared_store import SharedStore, StoreAway
from service.vehicles.model import Source, Vin

LASTS: Final = 0.5
"""How long a turn lasts, as a share of a look-up's deadline."""
FAILED: Final = b"failed"
FAILED_MS: Final = 500
"""How long those who waited can see that a look-up has failed."""
POLL_MS: Final = (25, 50)
TOKEN_BYTES: Final = 16

_END: Final = """
for at, key in ipairs(KEYS) do
  if redis.call('get', key) == ARGV[1] then
    if ARGV[2] == '' then redis.call('del', key)
    else redis.call('set', key, ARGV[2], 'PX', ARGV[3]) end
  end
end
"""


class Turns(Protocol):
    """How processes that look up the same stand to each other."""

    are_shared: bool
    """Whether another process may have had the turn before."""

    async def take(self, vins: Collection[Vin]) -> set[Vin]:
        """The VINs that it is this process's turn to ask for."""

    async def end(self, vins: Collection[Vin], *, failed: bool = False) -> None:
        """Let the others look for what was learnt, or know that nothing was."""

    async def wait(self, vins: Collection[Vin]) -> set[Vin]:
        """Wait until nobody asks for these any more; gives those that failed."""


class Alone:
    """No other process is known: it is always this one's turn."""

    are_shared = False

    async def take(self, vins: Collection[Vin]) -> set[Vin]:
        """All of them."""
        return set(vins)

    async def end(self, vins: Collection[Vin], *, failed: bool = False) -> None:
        """Nobody waits."""

    async def wait(self, vins: Collection[Vin]) -> set[Vin]:
        """There is nobody to wait for."""
        return set()


class RedisTurns:
    """Turns by keys of a shared store."""

    are_shared = True

    def __init__(self, store: SharedStore, settings: Settings, source: Source) -> None:
        self._store = store
        self._source = source
        self._lasts_ms = math.ceil(settings.vehicles.deadline_s * LASTS * 1_000)
        self._token = secrets.token_hex(TOKEN_BYTES).encode()

    async def take(self, vins: Collection[Vin]) -> set[Vin]:
        """Those whose key could be taken; all of them while the store is away."""
        asked = list(vins)

        def take(pipeline: Pipeline) -> None:
            for key in self._keys(asked):
                pipeline.set(key, self._token, nx=True, px=self._lasts_ms)

        try:
            taken = await self._store.run(take)
        except StoreAway:
            return set(asked)
        return {vin for vin, is_ours in zip(asked, taken, strict=True) if is_ours}

    async def end(self, vins: Collection[Vin], *, failed: bool = False) -> None:
        """Give the keys back that are still ours."""
        if not vins:
            return
        keys = self._keys(vins)
        left = FAILED if failed else b""

        def end(pipeline: Pipeline) -> Any:
            return pipeline.eval(_END, len(keys), *keys, self._token, left, FAILED_MS)

        try:
            await self._store.run(end)
        except StoreAway:
            return

    async def wait(self, vins: Collection[Vin]) -> set[Vin]:
        """Look now and then; where the store is away, there is nothing to wait for."""
        keys, failed = self._keys(vins), set[Vin]()
        while True:
            try:
                (holders,) = await self._store.run(lambda pipeline: pipeline.mget(keys))
            except StoreAway:
                return failed
            # A failure is seen for a moment only, while others are still asked for.
            pairs = zip(vins, holders, strict=True)
            failed |= {vin for vin, holder in pairs if holder == FAILED}
            if all(holder in {None, FAILED} for holder in holders):
                return failed
            await asyncio.sleep(random.uniform(*POLL_MS) / 1_000)  # noqa: S311

    def _keys(self, vins: Collection[Vin]) -> Sequence[str]:
        return [self._store.key("vehicle", self._source, vin) for vin in vins]


def share_turns(store: SharedStore | None, settings: Settings, source: Source) -> Turns:
    """Turns through a store, or alone where there is none."""
    return Alone() if store is None else RedisTurns(store, settings, source)
