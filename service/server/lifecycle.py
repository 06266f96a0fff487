"""Log lines about the service and its worker processes: how they start and end."""

import os
import platform
import signal
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter

from service.observability.metrics import REGISTRY
from service.web.system import VERSION

SERVICE_VERSION: Final = "service.version"
PID: Final = "process.pid"

log = structlog.get_logger()


class _WorkerMetrics:
    """Ends of worker processes, counted by their master."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.exited = Counter(
            "copilot_usage_workers_exited",
            "Workers that have ended: asked to do so, or died.",
            ("cause",),
            registry=registry,
        )
        # A series that begins at 0 shows its first growth too.
        for cause in ("asked", "died"):
            self.exited.labels(cause)


_metrics: Final = REGISTRY.declare(_WorkerMetrics)


def log_started(url: str) -> None:
    """Log the start: version, process and URL."""
    log.info(
        "service.started",
        **{
            SERVICE_VERSION: VERSION,
            "process.runtime.version": platform.python_version(),
            PID: os.getpid(),
            "url.full": url,
        },
    )


def log_stopping() -> None:
    """Log that the service shuts down, before it drains."""
    log.info("service.stopping", **{SERVICE_VERSION: VERSION, PID: os.getpid()})


def log_stopped() -> None:
    """Log that the service has shut down; the last line of the log."""
    log.info("service.stopped", **{SERVICE_VERSION: VERSION, PID: os.getpid()})


def log_reloading() -> None:
    """Log that a reload begins."""
    log.info("service.reloading", **{SERVICE_VERSION: VERSION, PID: os.getpid()})


def log_reload_refused(reason: str) -> None:
    """Log that a reload is refused; the service continues."""
    log.error("service.reload_refused", reason=reason)


def log_shutdown_forced(open_work: list[str]) -> None:
    """Log that a shutdown is cut short, and the work that was still open."""
    log.error("service.shutdown_forced", open=open_work)


def log_worker_started(pid: int) -> None:
    """Log a worker that is about to serve; called in the worker."""
    log.info("worker.started", **{PID: pid})


def log_worker_exited(pid: int, exit_code: int, *, was_asked: bool) -> None:
    """Log a worker that has ended; called in the master.

    `exit_code` is as `os.waitstatus_to_exitcode` returns it: negative for a signal.
    """
    ended = {
        PID: pid,
        "exit_code": exit_code if exit_code >= 0 else None,
        "signal": signal.Signals(-exit_code).name if exit_code < 0 else None,
    }
    _metrics.current.exited.labels("asked" if was_asked else "died").inc()
    if was_asked:
        log.info("worker.exited", **ended)
    else:
        log.warning("worker.exited", **ended)
