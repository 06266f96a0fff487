"""Logging with structlog: one JSON object per line on standard output.

The processors use no stdlib logging, so that a line costs microseconds. Libraries log
through the stdlib, whose records are rendered in the same form. A thread writes the
lines (`log_output`).
"""

import logging
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.observability import log_output
from service.observability.console import ConsoleLog
from service.observability.line_queue import MAX_BYTES, Kind

LogFormat = Literal["auto", "json", "console"]

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
KINDS: Final = {
    "debug": Kind.DETAIL,
    "info": Kind.INFO,
    "warning": Kind.WARNING,
    "error": Kind.ERROR,
    "critical": Kind.ERROR,
}
DETAILS: Final = {"credits.step", "credits.rated"}
"""Events of each message: the most lines by far, and the first to be dropped."""

log = structlog.get_logger()


class ServiceLogger(structlog.make_filtering_bound_logger(LEVELS["debug"])):  # type: ignore[misc]
    """The class of all loggers, whose methods below the level do nothing."""

    level = "debug"


_encoder: Final = msgspec.json.Encoder(enc_hook=str)


def configure(level: str, form: LogFormat, max_queue_bytes: int = MAX_BYTES) -> None:
    """Set up logging for the whole process; called once, by the commands."""
    log_output.STDOUT.queue.set_max_bytes(max_queue_bytes)
    log_output.STDOUT.report = log_dropped
    renderer = _renderer(form)
    logger = QueueLogger()
    structlog.configure(
        processors=[*_shared_processors(form), _queued(renderer)],
        wrapper_class=ServiceLogger,
        logger_factory=lambda *_names: logger,
        cache_logger_on_first_use=True,
    )
    _join_stdlib(form, renderer)
    set_level(level)


def set_level(level: str) -> None:
    """Change the lowest level that is logged, for the whole process."""
    # Loggers are cached by the modules, so their class changes.
    filtering = structlog.make_filtering_bound_logger(LEVELS[level])
    for name, method in vars(filtering).items():
        if callable(method):
            setattr(ServiceLogger, name, method)
    ServiceLogger.level = level
    # Libraries log many records below warning that operators do not need.
    logging.getLogger().setLevel(max(LEVELS[level], logging.WARNING))


def render_json(_logger: WrappedLogger, _method: str, entry: EventDict) -> bytes:
    """Return an entry as JSON, with timestamp, level and event first."""
    ordered = {
        "timestamp": entry.pop("timestamp", None),
        "level": entry.pop("level", None),
        "event": entry.pop("event", None),
        **entry,
    }
    try:
        return _encoder.encode(ordered)
    except (TypeError, ValueError, RecursionError):
        # Lone surrogates, cycles or keys that JSON lacks must not lose the line.
        return _encoder.encode({key: _encodable(ordered[key]) for key in ordered})


def _encodable(value: object) -> object:
    """Return the value, or its ASCII form if JSON cannot represent it."""
    try:
        _encoder.encode(value)
    except (TypeError, ValueError, RecursionError):
        return ascii(value)
    return value


def is_console(form: LogFormat) -> bool:
    """Return true for the console form: selected, or "auto" on a terminal."""
    return form == "console" or (form == "auto" and _is_terminal())


def add_timestamp(_logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
    """Add an ISO 8601 timestamp in UTC, in microseconds."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    entry["timestamp"] = f"{_format_second(seconds)}.{nanoseconds // 1_000:06d}Z"
    return entry


# Formatting each second once saves most of the time of a timestamp.
@lru_cache(maxsize=4)
def _format_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class QueueLogger:
    """The end of structlog's processors: adds rendered lines to the queue."""

    def __init__(self) -> None:
        put = log_output.STDOUT.queue.put
        self.debug = self.info = self.warning = put
        self.error = self.critical = put


class QueueHandler(logging.Handler):
    """The same for records of the stdlib."""

    def emit(self, record: logging.LogRecord) -> None:
        """Render a record, and add it to the queue."""
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - the stdlib's rule for handlers
            self.handleError(record)
        else:
            log_output.STDOUT.queue.put(_encode(text), _kind_of_level(record.levelno))


def log_dropped(dropped: Mapping[Kind, int]) -> None:
    """Log how many lines were dropped, by kind."""
    log.warning(
        "log.dropped",
        lines=sum(dropped.values()),
        kinds={kind.label: count for kind, count in dropped.items() if count},
        **{"process.pid": os.getpid()},
    )


def _queued(render: Processor) -> Processor:
    """Return the last processor: arguments for the methods of `QueueLogger`."""

    def render_line(
        logger: WrappedLogger, method: str, entry: EventDict
    ) -> tuple[tuple[bytes, Kind], dict[str, object]]:
        kind = Kind.DETAIL if entry["event"] in DETAILS else KINDS[method]
        line = render(logger, method, entry)
        return (line if isinstance(line, bytes) else _encode(str(line)), kind), {}

    return render_line


def _kind_of_level(level: int) -> Kind:
    at_most = (KINDS[name] for name in reversed(LEVELS) if LEVELS[name] <= level)
    return next(at_most, Kind.DETAIL)


def _encode(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _shared_processors(form: LogFormat) -> list[Processor]:
    context = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
    ]
    if is_console(form):
        return [*context, structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)]
    return [*context, add_timestamp, structlog.processors.format_exc_info]


def _renderer(form: LogFormat) -> Processor:
    if is_console(form):
        return ConsoleLog(colors=_has_colors())
    return render_json


def _has_colors() -> bool:
    """Return true on a terminal without `NO_COLOR` (https://no-color.org)."""
    return _is_terminal() and not os.environ.get("NO_COLOR")


def _is_terminal() -> bool:
    # Python has no `sys.stdout` if the descriptor was closed at the start.
    return sys.stdout is not None and sys.stdout.isatty()


def _join_stdlib(form: LogFormat, renderer: Processor) -> None:
    def as_text(logger: WrappedLogger, method: str, entry: EventDict) -> str:
        rendered = renderer(logger, method, entry)
        return rendered.decode() if isinstance(rendered, bytes) else str(rendered)

    handler = QueueHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                *_shared_processors(form),
                structlog.stdlib.add_logger_name,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                as_text,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
