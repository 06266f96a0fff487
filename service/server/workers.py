"""Worker processes of gunicorn, which share listening sockets.

Each worker has its own application and cache. SIGTERM and Ctrl-C drain all of them, as
they drain a single process; a second one ends them at once. SIGHUP executes the master
again, which starts new workers; these replace the old ones, so that some always serve.
"""

import asyncio
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from aiohttp.worker import GunicornUVLoopWebWorker
from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config

from service.admin import siblings
from service.app import check_storage, create_app
from service.observability import log_output, metrics
from service.server import handover, lifecycle
from service.server.listener import LISTEN_BACKLOG, Listeners, listen_all, url_of
from service.server.master import LATER_S, Master
from service.server.predecessors import RETIRE, STOP, Predecessors
from service.server.runner import ServiceRunner, freeze_start_up_objects
from service.server.shutdown import (
    STOP_SIGNALS,
    Budget,
    Ending,
    exit_in_order,
    on_signal,
)
from service.settings import Settings

MEMORY_FOLDER: Final = Path("/dev/shm")  # noqa: S108 - for gunicorn's heartbeat files
STUCK_S: Final = 60.0
"""A worker whose event loop is blocked for so long is killed and replaced."""


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve with `server.workers` processes until a signal; ends this process.

    Passes the URL to `announce`. Raises `CannotStart`, `StorageUnusable` and
    `SettingsError`.
    """
    handed = handover.take_over()
    predecessors = Predecessors(handed)
    for each in STOP_SIGNALS:
        on_signal(each, _exit)
    # The master handles it, once it has started.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    limit_s = Budget.of(settings.server).limit_s
    application: ServiceApplication | None = None
    try:
        handover.handle_late_signals(STOP_SIGNALS, handed.signals)
        inherited = handover.inherited_sockets(handed.sockets)
        listeners = listen_all(settings.server, inherited)
        is_same = set(inherited) & set(listeners.sockets)
        predecessors.are_moved = bool(inherited) and not is_same
        _prepare(settings)
        metrics.prepare_workers()
        log_output.STDOUT.lock.share()
        application = ServiceApplication(settings, listeners, predecessors, announce)
        application.run()
    except SystemExit as end:
        predecessors.end(time.monotonic() + limit_s)
        ending = application.ending if application is not None else Ending()
        exit_in_order(ending, int(end.code or 0))
    finally:
        predecessors.end(time.monotonic() + limit_s)


class ServiceApplication(BaseApplication):
    """The configuration of gunicorn, and the application that it serves."""

    def __init__(
        self,
        settings: Settings,
        listeners: Listeners,
        predecessors: Predecessors,
        announce: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self.predecessors = predecessors
        self.budget = Budget.of(settings.server)
        # Each worker, and the master as it stops, sets its own.
        self.ending = Ending()
        self.is_replacement = False
        self.admin_folder = siblings.make_folder()
        self._replaced = listeners.replaced
        self.admin_sockets = listeners.admin
        self._url = url_of(settings.server, listeners.sockets)
        # gunicorn makes its own sockets from the descriptors.
        self._binds = [f"fd://{each.detach()}" for each in listeners.sockets]
        self._announce = announce
        super().__init__()

    def load_config(self) -> None:
        """Configure gunicorn from the settings; its own files are not read."""
        server = self._settings.server
        options = {
            "bind": self._binds,
            "workers": server.workers,
            "worker_class": ServiceWorker,
            "worker_tmp_dir": str(MEMORY_FOLDER) if MEMORY_FOLDER.is_dir() else None,
            "backlog": LISTEN_BACKLOG,
            "timeout": int(server.shutdown_grace_s + STUCK_S),
            "logger_class": JoinedLogger,
            "errorlog": None,
            "loglevel": "warning",
            "when_ready": self._when_ready,
            "post_worker_init": _worker_started,
        }
        for name, value in options.items():
            self.cfg.set(name, value)
        # Later than the watchdogs of the workers. `set` accepts whole seconds only.
        limit_s = (self.budget.limit_s + server.shutdown_grace_s) / 2
        self.cfg.settings["graceful_timeout"].value = limit_s
        # Only newer versions of gunicorn have the control socket.
        if "control_socket_disable" in self.cfg.settings:
            self.cfg.set("control_socket_disable", True)  # noqa: FBT003

    def load(self) -> Callable[[], Awaitable[ServiceRunner]]:
        """Return a function that makes the application, which each worker calls."""

        async def make() -> ServiceRunner:
            settings = self._settings
            # A replacement worker must start even while the storage is unavailable.
            app = create_app(settings, is_storage_checked=True)
            app[siblings.FOLDER] = self.admin_folder
            runner = ServiceRunner(app, settings.server, self.ending, self._replaced)
            runner.admin_sockets = self.admin_sockets
            if settings.health.warm_up:
                # At the first start there is no other worker that serves meanwhile.
                wait_s = settings.health.warm_up_s if self.is_replacement else 0.0
                runner.warm_up_s = wait_s
            return runner

        return make

    def run(self) -> None:
        """Run until a signal; raises `SystemExit`, as gunicorn does."""
        check_s = self._settings.server.reload_check_s
        Master(self, self.predecessors, self._replaced, check_s).run()

    def _when_ready(self, _master: Arbiter) -> None:
        self._announce(self._url)


class ServiceWorker(GunicornUVLoopWebWorker):
    """aiohttp's worker, which ends in order.

    SIGTERM retires it: the other workers accept connections. The master sends `STOP` as
    the service ends. SIGQUIT ends it at once.
    """

    _has_served = False

    def init_signals(self) -> None:
        """Handle the signals of the master, and ignore those of a terminal."""
        super().init_signals()
        # Earlier than the watchdog of the master, which looks every 0.1 s.
        limit_s = max(0.0, self.app.budget.limit_s - LATER_S)
        # Later than this, the master kills the worker.
        exit_limit_s = self.cfg.graceful_timeout
        self._ending = self.app.ending = Ending(limit_s, exit_limit_s)
        self._ending.keeps_listening = True
        self._ending.attach(self.loop)
        is_further = self.age > self.cfg.workers
        self.app.is_replacement = is_further or bool(self.app.predecessors.pids)
        handlers: dict[signal.Signals, Callable[[], None]] = {
            RETIRE: self._retire,
            STOP: self._stop,
            signal.SIGQUIT: partial(os._exit, 1),
            signal.SIGINT: _ignore,
            signal.SIGHUP: _ignore,
        }
        for number, handle in handlers.items():
            self.loop.remove_signal_handler(number)
            on_signal(number, handle)

    def run(self) -> None:
        """Serve until a signal, and end this process."""
        try:
            super().run()
        except SystemExit as end:
            exit_in_order(self._ending, int(end.code or 0))

    def notify(self) -> None:
        """Tell the master that this worker lives, and the first time that it serves."""
        super().notify()
        if not self._has_served:
            self._has_served = True
            self.app.predecessors.report_serving()
        if self.ppid != os.getppid():
            # The master was killed, and nobody else accepts connections later.
            self._ending.stop()

    def _retire(self) -> None:
        self._ending.retire()
        self._end_soon()

    def _stop(self) -> None:
        self._ending.stop()
        self._end_soon()

    def _end_soon(self) -> None:
        self.alive = False
        # Now, and not at the next tick of one second. A second signal may come when the
        # loop is closed.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._notify_waiter_done)


class JoinedLogger(glogging.Logger):
    """gunicorn's logger, whose warnings become lines of the service's log."""

    def setup(self, cfg: Config) -> None:
        """Pass all records to the root logger."""
        super().setup(cfg)
        self.error_log.propagate = True


def _prepare(settings: Settings) -> None:
    """Do once what each worker would do by itself."""
    asyncio.run(check_storage(settings))
    # The workers share the memory of modules that are loaded before they are forked.
    if settings.cache.redis_url:
        import_module("redis.asyncio")
    if settings.telemetry.traces:
        import_module("service.observability.span_export")
    gc.freeze()


def _worker_started(worker: Any) -> None:
    freeze_start_up_objects()
    lifecycle.log_worker_started(worker.pid)


def _ignore() -> None:
    pass


def _exit() -> None:
    raise SystemExit(0)
