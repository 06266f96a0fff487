"""Many processes: gunicorn keeps workers alive that share one listening socket.

Each worker makes the whole application for itself, with all that it holds. SIGTERM and
Ctrl-C drain them all, as they do a single process; a second one ends them at once.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import structlog
from aiohttp.worker import GunicornUVLoopWebWorker
from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from yarl import URL

from service import logs, metrics
from service.app import check_storage, create_app
from service.serving import (
    LISTEN_BACKLOG,
    STOP_SIGNALS,
    CannotStart,
    ServiceRunner,
    settle_memory,
)
from service.settings import Server, Settings

MEMORY_FOLDER: Final = Path("/dev/shm")  # noqa: S108 - gunicorn makes its files there
CLEANUP_S: Final = 5.0
"""What closing the application may take beyond the requests in flight."""
STUCK_S: Final = 60.0
"""A worker whose loop stands still for so long is killed and replaced."""

log = structlog.get_logger()


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve with `server.workers` processes until a signal; ends this process.

    `announce` is given the URL. Raises `CannotStart`, `StorageUnusable` and
    `SettingsError`.
    """
    listener = listen(settings.server)
    asyncio.run(check_storage(settings))
    metrics.prepare_workers()
    logs.output_lock.share()
    Workers(settings, listener, announce).run()


def listen(server: Server) -> socket.socket:
    """The socket that all workers accept from; raises `CannotStart`."""
    try:
        family, *_, address = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=LISTEN_BACKLOG)
    except OSError as error:
        raise CannotStart.at(server, error) from error


class Workers(BaseApplication):
    """Our settings as gunicorn's, and the application it serves."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        announce: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._url = _url_of(listener)
        self._fd = listener.detach()  # gunicorn makes a socket of its own of it
        self._announce = announce
        super().__init__()

    def load_config(self) -> None:
        """Set what is ours to set; gunicorn's own files and variables are not read."""
        server = self._settings.server
        options = {
            "bind": f"fd://{self._fd}",
            "workers": server.workers,
            "worker_class": Worker,
            "worker_tmp_dir": str(MEMORY_FOLDER) if MEMORY_FOLDER.is_dir() else None,
            "backlog": LISTEN_BACKLOG,
            "graceful_timeout": int(server.shutdown_grace_s + CLEANUP_S),
            "timeout": int(server.shutdown_grace_s + STUCK_S),
            "logger_class": JoinedLogger,
            "errorlog": None,
            "loglevel": "warning",
            "when_ready": self._when_ready,
            "post_worker_init": note_start,
            "child_exit": note_exit,
        }
        for name, value in options.items():
            self.cfg.set(name, value)
        if "control_socket_disable" in self.cfg.settings:
            self.cfg.set("control_socket_disable", True)  # noqa: FBT003

    def load(self) -> Callable[[], Awaitable[ServiceRunner]]:
        """What a worker, and only a worker, calls to make its application."""

        async def make() -> ServiceRunner:
            # One that takes a dead one's place has to start whatever storage does.
            app = create_app(self._settings, is_storage_checked=True)
            return ServiceRunner(app, self._settings.server)

        return make

    def run(self) -> None:
        """Until a signal; leaves by `SystemExit`, as gunicorn does."""
        Master(self).run()

    def _when_ready(self, _master: Arbiter) -> None:
        self._announce(self._url)


class Master(Arbiter):
    """gunicorn's master, for which Ctrl-C is a stop in order, and the second is not."""

    _is_stopping = False

    def signal(self, sig: int, frame: FrameType | None) -> None:
        """Queue a signal: the first to stop as SIGTERM, any further as SIGINT."""
        if sig in STOP_SIGNALS:
            sig = signal.SIGINT if self._is_stopping else signal.SIGTERM
            self._is_stopping = True
        super().signal(sig, frame)


class Worker(GunicornUVLoopWebWorker):
    """aiohttp's worker, which drains when told to and ends at once when told again."""

    def init_signals(self) -> None:
        """A terminal's Ctrl-C reaches workers too, but only their master heeds it."""
        super().init_signals()
        self.loop.add_signal_handler(signal.SIGINT, _ignore)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: begin to drain now, and not when the next second is over."""
        super().handle_exit(sig, frame)
        self._notify_waiter_done()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGQUIT, which is how the master tells that there is no time."""
        os._exit(1)


class JoinedLogger(glogging.Logger):
    """gunicorn's logger without files of its own: its warnings join our log."""

    def setup(self, cfg: Config) -> None:
        """Pass everything on to the root logger."""
        super().setup(cfg)
        self.error_log.propagate = True


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return str(URL.build(scheme="http", host=host, port=port))


def note_start(worker: Any) -> None:
    """Called in a worker that is about to serve."""
    settle_memory()
    log.info("worker.started", **{"process.pid": worker.pid})


def note_exit(_master: Arbiter, worker: Any) -> None:
    """Called in the master for each worker that has ended, in whatever way."""
    metrics.child_exited(worker.pid)
    log.info("worker.exited", **{"process.pid": worker.pid})


def _ignore() -> None:
    pass
