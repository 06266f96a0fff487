"""Console form of the log: short lines for people, and repeated lines counted.

The JSON form is the complete one; nothing here changes it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import structlog
from structlog.dev import Column, ColumnFormatter, ConsoleRenderer, plain_traceback
from structlog.dev import KeyValueColumnFormatter as Formatter
from structlog.typing import EventDict, WrappedLogger

SHOWN_LINES: Final = {
    "credits.rated": 2,
    "report.invalid_id": 1,
    "report.missing": 1,
    "report.resolved": 1,
    "upstream.request": 1,
}
"""Lines of each event that one request prints; further ones are counted."""
STEP: Final = "credits.step"
LAST_EVENTS: Final = {"usage.refresh.finished", "usage.refresh.failed", "http.request"}
"""The count is printed before any of these."""
HOW_TO_SEE_ALL: Final = "COPILOT_USAGE_LOGGING__FORMAT=json"
MAX_REQUESTS: Final = 64
"""Maximum of requests with counts; the oldest is dropped first."""

EVENT_CHARS: Final = 16
ID_CHARS: Final = 6
"""The end of a request id, which is a counter, tells requests apart."""
WITHOUT_KEY: Final = (
    "http.request.method",
    "url.path",
    "http.response.status_code",
)
LEFT_OUT: Final = {"http.route", "refresh_id", "revision", "span_id", "trace_id"}
LEFT_OUT_WHEN_FALSE: Final = {"cache", "cached", "http.request.resend_count", "reused"}


class Repeats:
    """Counts of the repeated events of one request, printed and omitted."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._steps: dict[str, float] = {}

    def select(self, entry: EventDict) -> Iterator[EventDict]:
        """Yield the entry if it is printed; that of a price includes its steps."""
        event = entry["event"]
        if event == STEP:
            self._steps[entry["step"]] = entry["credits"]
            return
        # Steps are logged before the price that they lead to.
        steps, self._steps = self._steps, {}
        self._seen[event] += 1
        if self._seen[event] <= SHOWN_LINES[event]:
            changing = {name: amount for name, amount in steps.items() if amount}
            yield {**entry, **changing}

    def summary(self) -> dict[str, int]:
        """Return the counts of omitted lines: priced messages, and other events."""
        omitted = {
            event: seen - SHOWN_LINES[event] for event, seen in self._seen.items()
        }
        messages = max(0, omitted.pop("credits.rated", 0))
        lines = sum(max(0, each) for each in omitted.values())
        return {"messages": messages, "other_lines": lines}


class ConsoleLog:
    """Last processor of the console form: renders each entry, or drops and counts it.

    A line above `info` is always printed, with all its values.
    """

    def __init__(self, *, colors: bool) -> None:
        self._render = _renderer(colors=colors)
        self._repeats: dict[str | None, Repeats] = {}

    def __call__(self, logger: WrappedLogger, method: str, entry: EventDict) -> str:
        """Return the lines of an entry; raises `structlog.DropEvent` without any."""
        lines = [
            self._render(logger, method, _shorten(each)) for each in self._select(entry)
        ]
        if not lines:
            raise structlog.DropEvent
        return "\n".join(lines)

    def _select(self, entry: EventDict) -> Iterator[EventDict]:
        event, request_id = entry["event"], entry.get("request_id")
        if entry["level"] == "info" and (event in SHOWN_LINES or event == STEP):
            yield from self._repeats_of(request_id).select(entry)
            return
        if event in LAST_EVENTS and request_id in self._repeats:
            yield from _omissions(entry, self._repeats.pop(request_id))
        yield entry

    def _repeats_of(self, request_id: str | None) -> Repeats:
        if request_id not in self._repeats and len(self._repeats) >= MAX_REQUESTS:
            del self._repeats[next(iter(self._repeats))]
        return self._repeats.setdefault(request_id, Repeats())


def _omissions(entry: EventDict, repeats: Repeats) -> Iterator[EventDict]:
    """Yield the entry `log.omitted` before the last entry of a request."""
    counts = {name: count for name, count in repeats.summary().items() if count}
    if counts:
        yield {
            "timestamp": entry["timestamp"],
            "level": "info",
            "event": "log.omitted",
            **counts,
            "see": HOW_TO_SEE_ALL,
        }


def _shorten(entry: EventDict) -> EventDict:
    """Shorten names and durations, and drop ids from info lines."""
    if entry["level"] != "info":
        return _with_short_names(entry)
    request_id = entry.pop("request_id", None)
    shown = {
        name: value
        for name, value in entry.items()
        if name not in LEFT_OUT and (value or name not in LEFT_OUT_WHEN_FALSE)
    }
    if request_id and entry["event"] == "http.request":
        is_long = len(request_id) > 2 * ID_CHARS
        shown["request_id"] = "…" + request_id[-ID_CHARS:] if is_long else request_id
    return _with_short_names(shown)


def _with_short_names(entry: EventDict) -> EventDict:
    return dict(_short_item(name, value) for name, value in entry.items())


def _short_item(name: str, value: object) -> tuple[str, object]:
    if name.endswith("_s") and isinstance(value, int | float):
        return name.removesuffix("_s"), _duration(value)
    if name.startswith("http.") and name not in WITHOUT_KEY:
        return name.rpartition(".")[2], value
    return name, value


def _duration(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds >= 1 else f"{seconds * 1_000:.1f}ms"


def _value(value: object) -> str:
    """Return the value as one word, which cannot end the line or control a terminal."""
    text = str(value)
    return text if text.isprintable() and " " not in text else ascii(text)


def _event(value: object) -> str:
    """Return the event as it is, spaces too: libraries log sentences."""
    text = str(value)
    return text if text.isprintable() else ascii(text)


def _renderer(*, colors: bool) -> ConsoleRenderer:
    styles = ConsoleRenderer.get_default_column_styles(colors)
    reset = styles.reset

    def plain(
        style: str, to_text: Callable[[object], str], width: int = 0
    ) -> Formatter:
        return Formatter(None, style, reset, to_text, width)

    return ConsoleRenderer(
        columns=[
            Column("timestamp", plain(styles.timestamp, str)),
            Column("level", _level_formatter(reset, colors=colors)),
            Column("event", plain(styles.bright, _event, EVENT_CHARS)),
            *(Column(name, plain(styles.kv_value, _value)) for name in WITHOUT_KEY),
            Column("", Formatter(styles.kv_key, styles.kv_value, reset, _value)),
        ],
        sort_keys=False,
        exception_formatter=plain_traceback,
    )


def _level_formatter(reset: str, *, colors: bool) -> ColumnFormatter:
    """Return a formatter of levels, which omits info, the usual one."""
    styles = ConsoleRenderer.get_default_level_styles(colors)

    def render(key: str, value: object) -> str:
        return "" if value == "info" else f"{styles[str(value)]}{value}{reset}"

    return render
