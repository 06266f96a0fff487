"""The base of both clients: `track`, the queue, the end of the process, and forks."""

from __future__ import annotations

import atexit
import hashlib
import os
import ssl
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from copilot_usage_client.delivery import Delivery
from copilot_usage_client.encoding import encode_event
from copilot_usage_client.ids import Stamps
from copilot_usage_client.outbox import Outbox
from copilot_usage_client.problems import OnError, Problem, reporter
from copilot_usage_client.transport import Answer, NoAnswer, check_key, parse_url

MIB: Final = 1024 * 1024
FORK_WAIT_S: Final = 1.0
"""Upper bound of the wait of a fork for work with files."""


class Counts(NamedTuple):
    """Numbers of events of this process, and the bytes that wait in its memory."""

    delivered: int
    failed: int
    dropped: int
    memory_bytes: int


class Options(NamedTuple):
    """The options of a client."""

    url: str
    key: str
    max_memory_bytes: int
    spool_dir: str | os.PathLike[str] | None
    max_spool_bytes: int
    compress: bool
    timeout_s: float
    close_timeout_s: float
    ssl_context: ssl.SSLContext | None


class BaseClient:
    """A client without its driver, which sends what `_delivery` says.

    The process that has made a client and those that it forks use it alike: each sends
    its own events.

    `Client` describes the arguments.
    """

    def __init__(  # noqa: PLR0913 - each has a default
        self,
        url: str,
        key: str,
        *,
        on_error: OnError | None = None,
        max_memory_bytes: int = 16 * MIB,
        spool_dir: str | os.PathLike[str] | None = None,
        max_spool_bytes: int = 256 * MIB,
        compress: bool = False,
        timeout_s: float = 10.0,
        close_timeout_s: float = 5.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._target = parse_url(url)
        check_key(key)
        if max_memory_bytes < 1 or max_spool_bytes < 0:
            raise ValueError("a client needs memory, and a spool of 0 bytes or more")
        sizes = max_memory_bytes, spool_dir, max_spool_bytes
        limits = timeout_s, close_timeout_s
        self._options = Options(url, key, *sizes, compress, *limits, ssl_context)
        self._report = reporter(on_error)
        self._is_closed = False
        self._begin()
        _clients.add(self)
        self._send_spooled()

    def _send_spooled(self) -> None:
        """Start to send the events of former processes, if that needs no event loop."""

    def _begin(self) -> None:
        """Make all that belongs to one process."""
        options = self._options
        self._stamps = Stamps()
        self._is_started = False
        self._outbox = Outbox(
            self.spool_dir, options.max_memory_bytes, options.max_spool_bytes
        )
        self._outbox.on_wake = self._wake
        if options.max_spool_bytes and self.spool_dir is None:
            reason = "there is no home folder for the spool: set spool_dir"
            self._outbox.note(Problem("spool_failed", reason, 0))
        self._delivery = Delivery(
            self._outbox, options.key, compresses=options.compress
        )
        self._delivery_lock = threading.RLock()

    @property
    def counts(self) -> Counts:
        """Return how many events this process has delivered, lost, and still has."""
        return Counts(
            self._delivery.delivered,
            self._delivery.failed,
            self._outbox.dropped,
            self._outbox.memory_bytes,
        )

    @property
    def spool_dir(self) -> Path | None:
        """Folder of the events that wait on disk; None without a spool."""
        options = self._options
        if not options.max_spool_bytes:
            return None
        if options.spool_dir is not None:
            return Path(options.spool_dir)
        state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        # Of one application: events that wait are sent with the key of the client.
        owner = f"{self._target.url}\n{options.key}".encode()
        name = hashlib.blake2b(owner, digest_size=8).hexdigest()
        try:
            return Path(state).expanduser() / "copilot-usage-client" / name
        except RuntimeError:  # the user has no home
            return None

    def track(  # noqa: PLR0913 - the fields of an event
        self,
        category: str,
        name: str,
        data: Mapping[str, Any] | None = None,
        *,
        session_id: Any,
        timestamp: Any = None,
        event_id: Any = None,
    ) -> str | None:
        """Hand an event over, without waiting for the service; return its id.

        `data` is a mapping or a dataclass. `timestamp` is a `datetime`, UTC if it has
        no zone, or ISO 8601; the default is now. An event that cannot be encoded, or
        for which there is no room, is reported to `on_error`, and None is returned.
        """
        try:
            if event_id is None or timestamp is None:
                new_id, now = self._stamps.next()
                event_id = new_id if event_id is None else event_id
                timestamp = now if timestamp is None else timestamp
            # A mapping that is no dict, such as those of frameworks, has no JSON.
            content = data if type(data) is dict else _to_dict(data)
            line = encode_event(
                event_id, session_id, category, name, timestamp, content
            )
        except Exception as error:  # noqa: BLE001 - values may raise anything
            fields = (category, name, data, session_id, timestamp, event_id)
            self._report_invalid(error, fields)
            return None
        if len(line) > self._outbox.batch_bytes:
            fields = (category, name, data, session_id, timestamp, event_id)
            self._report_invalid(ValueError(f"{len(line)} bytes are too many"), fields)
            return None
        return str(event_id) if self._put(line) else None

    def _put(self, line: bytes) -> bool:
        if not self._is_started and not self._is_closed:
            self._start()
        is_kept = self._outbox.put(line)
        if self._is_closed:
            # Nobody sends it any more; the next process does.
            self._outbox.spill()
            self._end()
        return is_kept

    def _report_invalid(self, error: Exception, fields: tuple[Any, ...]) -> None:
        names = ("category", "name", "data", "session_id", "timestamp", "id")
        message = f"the event cannot be sent: {type(error).__name__}: {error}"
        self._report(Problem("invalid", message, 1, dict(zip(names, fields))))

    def _report_problems(self, *, are_last: bool = False) -> None:
        for problem in self._outbox.next_problems(is_last=are_last):
            self._report(problem)

    def _bound(self, timeout: float | None) -> float:
        return self._options.close_timeout_s if timeout is None else timeout

    # --- what a driver calls ----------------------------------------------------------

    def _start(self) -> None:
        """Start the driver."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Wake the driver, from any thread."""
        raise NotImplementedError

    def _next_request(self) -> tuple[bytes, dict[str, str]] | None:
        with self._delivery_lock:
            return None if self._is_closed else self._delivery.next_request()

    def _handle(self, outcome: Answer | NoAnswer) -> None:
        with self._delivery_lock:
            self._delivery.handle(outcome)

    def _end(self) -> None:
        """Keep what was not delivered, in files if possible; report the rest."""
        with self._delivery_lock:
            self._is_closed = True
            self._delivery.give_back()
        self._outbox.spill()
        self._outbox.drop_rest()
        self._outbox.end()
        self._report_problems(are_last=True)

    # --- the process ------------------------------------------------------------------

    def _finish(self) -> None:
        """Deliver within a bound at the end of the process."""
        raise NotImplementedError

    def _forget_parent(self) -> None:
        self._outbox.forget()
        self._begin()


def _to_dict(data: Any) -> Any:
    return dict(data or {}) if data is None or isinstance(data, Mapping) else data


# --- forks and the end of the process -------------------------------------------------

_clients: weakref.WeakSet[BaseClient] = weakref.WeakSet()
_paused = threading.local()
"""`locks`: those that a fork in this thread holds."""


def _before_fork() -> None:
    """Let no thread be at work with files: a child would keep a lock that it sees."""
    locks = [client._outbox.io for client in tuple(_clients)]
    _paused.locks = [lock for lock in locks if lock.acquire(timeout=FORK_WAIT_S)]


def _after_fork_in_parent() -> None:
    for lock in _paused.locks:
        lock.release()
    _paused.locks = []


def _after_fork_in_child() -> None:
    _paused.locks = []
    for client in tuple(_clients):
        client._forget_parent()


def _at_exit() -> None:
    for client in tuple(_clients):
        client._finish()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
atexit.register(_at_exit)
