"""Circuit breaker of the database: a server that does not answer is not asked.

After `MAX_TIMEOUTS` time-outs in a row the circuit opens, and transactions fail at
once. A background task then probes the database, and closes the circuit when a probe
succeeds. Other failures do not count: they cost no time. Neither do transactions that
are cancelled because their clients have left.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Final

import structlog

from service.storage import metrics
from service.storage.errors import CircuitOpen
from service.storage.uses import Use

MAX_TIMEOUTS: Final = 3
PROBE_INTERVAL_S: Final = 1.0
AWAY_AFTER_S: Final = 2.0
"""Time without any success after a failure; the API keys are read more often."""

log = structlog.get_logger()


class StorageBreaker:
    """The circuit of one process to its database.

    `probe` opens a connection of its own; `on_open` ends the connections in use.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        on_open: Callable[[], None],
        timeout_s: float,
    ) -> None:
        self._probe = probe
        self._on_open = on_open
        self._timeout_s = timeout_s
        self._timeouts = 0
        self._answered_at = 0.0
        self._failing_since: float | None = None
        self._probing: asyncio.Task[None] | None = None
        self._forced_open: bool | None = None
        metrics.circuit_changed(is_open=False)

    @property
    def is_open(self) -> bool:
        """True while transactions are refused."""
        return self._probing is not None or self._forced_open is True

    @property
    def is_away(self) -> bool:
        """True while transactions are refused, or all have failed for some time.

        A server that refuses connections opens no circuit, as its failures are quick.
        """
        since = self._failing_since
        return self.is_open or (since is not None and self.now() - since > AWAY_AFTER_S)

    @property
    def is_forced(self) -> bool:
        """True while an operator has set the state, which no time-out changes."""
        return self._forced_open is not None

    def force(self, *, is_open: bool | None) -> None:
        """Keep the circuit open or closed; None closes it and counts time-outs again.

        Transactions in progress are not ended.
        """
        self._forced_open = is_open
        self._timeouts = 0
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None
        metrics.circuit_changed(is_open=self.is_open)

    def check(self, use: Use | None = None) -> None:
        """Raise `CircuitOpen` while the circuit is open, for transactions of a use.

        An operator who keeps it open needs an API key to close it, which is read.
        """
        if self.is_open and not (self.is_forced and use is Use.KEYS):
            metrics.refused()
            raise CircuitOpen(PROBE_INTERVAL_S)

    def succeeded(self) -> None:
        """Count a transaction that succeeded."""
        self._timeouts = 0
        self._failing_since = None
        self._answered_at = self.now()

    def failed(self) -> None:
        """Count a transaction that failed because the database is unavailable."""
        if self._failing_since is None:
            self._failing_since = self.now()

    def gave_up(self, started: float) -> None:
        """Count a transaction whose caller gave up, begun at `started`.

        It counts as a time-out if the database has answered nothing since then. If it
        has, the transaction may have waited for others, or for a connection.
        """
        if self._answered_at < started:
            self.timed_out()

    def now(self) -> float:
        """Return the time of `gave_up`, in seconds."""
        return time.monotonic()

    def timed_out(self) -> None:
        """Count a time-out, and open the circuit after several in a row."""
        if self.is_forced:
            return
        self._timeouts += 1
        if self._timeouts < MAX_TIMEOUTS or self._probing is not None:
            return
        log.warning("storage.breaker.opened", timeouts=self._timeouts)
        metrics.circuit_changed(is_open=True)
        # Without the context of the request, whose id would be in its log lines.
        self._probing = asyncio.create_task(
            self._probe_until_success(), context=Context()
        )
        # All connections lead to the same server. None must wait for its own time-out.
        self._on_open()

    async def close(self) -> None:
        """Stop probing."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])

    async def _probe_until_success(self) -> None:
        opened_at = time.monotonic()
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            # Whatever fails, the database is not available.
            with suppress(Exception):
                async with asyncio.timeout(self._timeout_s):
                    await self._probe()
                break
        self._timeouts = 0
        self._probing = self._failing_since = None
        metrics.circuit_changed(is_open=False)
        open_s = round(time.monotonic() - opened_at, 6)
        log.info("storage.breaker.closed", open_s=open_s)
