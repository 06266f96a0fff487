"""Logging: structlog set up once, one JSON object a line on standard output.

The chain is short and holds no stdlib logging, so that a line costs microseconds.
Records of libraries that log through the stdlib join it at their own, slower pace.
"""

import logging
import sys
from typing import Any, Final, Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["auto", "json", "console"]

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_encoder: Final = msgspec.json.Encoder(enc_hook=str)


def configure(level: str, form: Format) -> None:
    """Set up logging for the whole process; called once, by the entry points."""
    structlog.configure(
        processors=[*_shared_processors(), _renderer(form)],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_logger_factory(form),
        cache_logger_on_first_use=True,
    )
    _join_stdlib(level, form)


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


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]


def _renderer(form: Format) -> Processor:
    if is_console(form):
        return structlog.dev.ConsoleRenderer(pad_event_to=24)
    return render_json


def _logger_factory(form: Format) -> Any:
    if is_console(form):
        return structlog.WriteLoggerFactory()
    return structlog.BytesLoggerFactory(sys.stdout.buffer)


def _join_stdlib(level: str, form: Format) -> None:
    def as_text(logger: WrappedLogger, method: str, entry: EventDict) -> str:
        rendered = _renderer(form)(logger, method, entry)
        return rendered.decode() if isinstance(rendered, bytes) else str(rendered)

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_shared_processors(), structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                as_text,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(LEVELS[level], logging.WARNING))
