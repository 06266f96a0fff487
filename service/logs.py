"""Logging: structlog set up once, one JSON object a line on standard output.

The chain is short and holds no stdlib logging, so that a line costs microseconds.
Records of libraries that log through the stdlib join it at their own, slower pace.
"""

import asyncio
import atexit
import fcntl
import logging
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, Any, BinaryIO, Final, Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.console import ConsoleLog

Format = Literal["auto", "json", "console"]

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

FLUSH_AFTER_S: Final = 0.01
"""How long a line may wait for others; a crash loses at most so much."""

_encoder: Final = msgspec.json.Encoder(enc_hook=str)


def configure(level: str, form: Format) -> None:
    """Set up logging for the whole process; called once, by the entry points."""
    renderer = _renderer(form)
    structlog.configure(
        processors=[*_shared_processors(form), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_logger_factory(form),
        cache_logger_on_first_use=True,
    )
    _join_stdlib(level, form, renderer)


def render_json(_logger: WrappedLogger, _method: str, entry: EventDict) -> bytes:
    """One entry as a JSON object whose first keys are timestamp, level and event."""
    ordered = {
        "timestamp": entry.pop("timestamp", None),
        "level": entry.pop("level", None),
        "event": entry.pop("event", None),
        **entry,
    }
    try:
        return _encoder.encode(ordered)
    except (TypeError, ValueError, RecursionError):
        # Odd keys, halves of surrogate pairs, cycles: the line is written all the same.
        return _encoder.encode({key: _encodable(ordered[key]) for key in ordered})


def _encodable(value: object) -> object:
    """The value, or its ASCII form where JSON has none."""
    try:
        _encoder.encode(value)
    except (TypeError, ValueError, RecursionError):
        return ascii(value)
    return value


def is_console(form: Format) -> bool:
    """Whether people read the log: asked for, or "auto" on a terminal."""
    return form == "console" or (form == "auto" and sys.stdout.isatty())


def add_timestamp(_logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
    """ISO 8601 in UTC, to the microsecond; the second is formatted once."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    entry["timestamp"] = f"{_format_second(seconds)}.{nanoseconds // 1_000:06d}Z"
    return entry


@lru_cache(maxsize=4)
def _format_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class OutputLock:
    """Lets one process after the other write, where several share standard output.

    A pipe that is full takes long writes in parts, and would mix their lines.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def share(self) -> None:
        """Hold it with all processes forked from now on."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is held to the end

    def __enter__(self) -> None:
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_error: object) -> None:
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


output_lock: Final = OutputLock()


class BatchingLogger:
    """Writes the lines of a few milliseconds in one go.

    Under load that is hundreds of lines, and a write for each would cost more than
    making it. Without a running loop, lines are written at once.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lines: list[bytes] = []
        self._flushing_on: asyncio.AbstractEventLoop | None = None
        atexit.register(self.flush)

    def msg(self, line: bytes) -> None:
        """Take one line, without its line feed."""
        self._lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if loop is not self._flushing_on:
            self._flushing_on = loop
            loop.call_later(FLUSH_AFTER_S, self.flush)

    debug = info = warning = error = critical = exception = msg

    def flush(self) -> None:
        """Write what has come together."""
        self._flushing_on = None
        if self._lines:
            lines, self._lines = self._lines, []
            with output_lock:
                self._file.write(b"\n".join([*lines, b""]))
                self._file.flush()


def _shared_processors(form: Format) -> list[Processor]:
    context = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
    ]
    if is_console(form):
        return [*context, structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)]
    return [*context, add_timestamp, structlog.processors.format_exc_info]


def _renderer(form: Format) -> Processor:
    if is_console(form):
        return ConsoleLog(colors=_has_colors())
    return render_json


def _has_colors() -> bool:
    """Return true on a terminal, unless its user wants none (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _logger_factory(form: Format) -> Any:
    if is_console(form):
        return structlog.WriteLoggerFactory()
    logger = BatchingLogger(sys.stdout.buffer)
    return lambda *_names: logger


def _join_stdlib(level: str, form: Format, renderer: Processor) -> None:
    def as_text(logger: WrappedLogger, method: str, entry: EventDict) -> str:
        rendered = renderer(logger, method, entry)
        return rendered.decode() if isinstance(rendered, bytes) else str(rendered)

    handler = logging.StreamHandler(sys.stdout)
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
    root.setLevel(max(LEVELS[level], logging.WARNING))
