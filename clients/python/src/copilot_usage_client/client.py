"""The client of synchronous applications: a thread delivers the events."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Final

from copilot_usage_client.base import BaseClient
from copilot_usage_client.transport import NoAnswer, Transport

FAILED_PAUSE_S: Final = 1.0
"""Pause of the thread after a defect of the program."""

log = logging.getLogger("copilot_usage_client")


class Client(BaseClient):
    """Sends events of an application, from any of its threads and forked processes.

    `url` and `key` are those of the service. Events that wait take at most
    `max_memory_bytes` of memory, and `max_spool_bytes` of files in `spool_dir`, a
    folder of this application alone; 0 bytes mean no files. `on_error` receives each
    `Problem`; without it, problems are logged. `timeout_s` bounds one request, and
    `close_timeout_s` the delivery at the end of the process. Raises `ValueError` for an
    invalid URL, key or bound.
    """

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all events are delivered, for at most `timeout` seconds.

        Returns whether they are, the files of former processes included. Called by
        `on_error` it does not wait.
        """
        if self._is_closed or threading.current_thread() is self._thread:
            return self._outbox.is_empty()
        self._start()
        if not self._is_started:
            return self._outbox.is_empty()
        with self._flushes:
            self._wanted += 1
            self._waiting += 1
            wanted = self._wanted
            self._delivery.hurries = True
            self._delivery.hurry()
            self._wake()
            try:
                return self._flushes.wait_for(lambda: self._flushed >= wanted, timeout)
            finally:
                self._waiting -= 1
                self._delivery.hurries = self._waiting > 0

    def close(self, timeout: float | None = None) -> bool:
        """Deliver for at most `timeout` seconds; keep the rest in files.

        The default is `close_timeout_s`. Returns whether everything was delivered.
        Events that find no room are reported.
        """
        if self._is_closed:
            return self._outbox.is_empty()
        is_needed = self._is_started or not self._outbox.is_empty()
        is_delivered = self.flush(self._bound(timeout)) if is_needed else True
        self._end()
        self._wake()
        return is_delivered

    # --- the thread -------------------------------------------------------------------

    def _begin(self) -> None:
        self._woken = threading.Event()
        self._flushes = threading.Condition()
        self._wanted = self._flushed = self._waiting = 0
        self._thread: threading.Thread | None = None
        self._start_lock = threading.RLock()
        super()._begin()

    def _send_spooled(self) -> None:
        if self._outbox.has_files:
            self._start()

    def _start(self) -> None:
        with self._start_lock:
            if self._is_started:
                return
            self._is_started = True
            _call_at_end_of_child(self)
            self._thread = threading.Thread(
                target=self._run, name="copilot-usage-client", daemon=True
            )
            try:
                self._thread.start()
            except RuntimeError:
                # The interpreter ends, or the process has too many threads.
                self._is_started = False

    def _wake(self) -> None:
        self._woken.set()

    def _run(self) -> None:
        transport = Transport(
            self._target, self._options.timeout_s, self._options.ssl_context
        )
        while not self._is_closed:
            self._work_on(transport)
        transport.close()

    def _work_on(self, transport: Transport) -> None:
        try:
            self._work(transport)
        except Exception:
            # A defect must not end the delivery for the life of the process.
            log.exception("the delivery failed, and goes on")
            time.sleep(FAILED_PAUSE_S)

    def _work(self, transport: Transport) -> None:
        wanted = self._wanted
        request = self._next_request()
        if request is None:
            self._note_flushed(wanted)
            self._report_problems()
            self._woken.wait(self._delivery.pause_s())
            self._woken.clear()
            return
        try:
            answer = transport.post(*request)
        except NoAnswer as failure:
            self._handle(failure)
        else:
            self._handle(answer)
        self._report_problems()

    def _note_flushed(self, wanted: int) -> None:
        """End the calls of `flush` that were made before nothing was left."""
        if self._flushed < wanted and self._outbox.is_empty():
            self._report_problems()
            with self._flushes:
                self._flushed = wanted
                self._flushes.notify_all()

    # --- the process ------------------------------------------------------------------

    def _finish(self) -> None:
        if self._is_started:
            self.close()


def _call_at_end_of_child(client: Client) -> None:
    """Close at the end of a child of multiprocessing, which has no `atexit`."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize  # noqa: PLC0415

        Finalize(client, client._finish, exitpriority=0)
