"""Readiness for requests about usage, and the first refresh of a process.

A process that has just started has no snapshot. While the upstream is unavailable it
cannot answer, whereas a process that has run for longer has a stale snapshot.
"""

import asyncio
from typing import Final

from service.settings import HealthSettings
from service.usage.cache import SnapshotCache
from service.web.health import Unready

PROBE_WAIT_S: Final = 0.5
"""Maximum wait of a probe for a refresh that runs."""
PROBE_PAUSE_S: Final = 5.0
"""Probes start no refresh within this time after the last one began.

Without them, a process to which no requests are sent would never get a snapshot.
"""
WARMING_UP: Final = Unready("warming up: the first fetch of the period runs")
NO_SNAPSHOT: Final = "no period is cached, and the last fetch has failed"
TOO_OLD: Final = "the cached period is too old to be served"


class UsageReadiness:
    """Checks of the snapshot cache, for probes."""

    def __init__(self, snapshots: SnapshotCache, settings: HealthSettings) -> None:
        self._snapshots = snapshots
        self._is_required = settings.require_snapshot

    def warm_up(self) -> asyncio.Task[None]:
        """Return the refresh that runs, or start one."""
        return self._snapshots.start_refresh()

    async def check_process(self) -> Unready | None:
        """Check whether the first refresh has ended; starts it if necessary.

        With `health.require_snapshot` it, or a later one, must have succeeded.
        """
        snapshots = self._snapshots
        if snapshots.current is None and self._is_required:
            return await self._check()
        if snapshots.current is None and snapshots.failures.last is None:
            await asyncio.wait([self.warm_up()], timeout=PROBE_WAIT_S)
        is_tried = snapshots.current is not None or snapshots.failures.last is not None
        return None if is_tried else WARMING_UP

    async def check_usage(self) -> Unready | None:
        """Check whether requests can be answered: by a snapshot that is young enough.

        Otherwise a refresh that has just succeeded is enough, as nothing may be cached.
        """
        return None if self._snapshots.is_servable else await self._check()

    async def _check(self) -> Unready | None:
        """Wait for a refresh, which is started if the last one began long ago."""
        snapshots = self._snapshots
        if snapshots.refreshing or self._began_long_ago():
            await asyncio.wait([self.warm_up()], timeout=PROBE_WAIT_S)
        if snapshots.is_servable:
            return None
        if snapshots.refreshing:
            return WARMING_UP
        if not snapshots.failures.has_failed:
            return None
        is_missing = snapshots.current is None
        return Unready(NO_SNAPSHOT if is_missing else TOO_OLD, PROBE_PAUSE_S)

    def _began_long_ago(self) -> bool:
        now = asyncio.get_running_loop().time()
        return now - self._snapshots.refresh_began > PROBE_PAUSE_S
