"""Plays copilot's API: the messages of the current period, and its reports."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final
from urllib.parse import unquote

import msgspec

from service.sandbox.faults import ELSEWHERE, MESSAGES_PATH, REPORTS_PREFIX, Reply
from service.sandbox.options import SandboxOptions
from service.sandbox.periods import Period, generate_period

UNKNOWN: Final = Reply(404, b'{"error":"no such thing"}')


class Copilot:
    """The period that is served, generated when first needed, and its answers."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self._period: Period | None = None
        self._messages = UNKNOWN

    def take(self, options: SandboxOptions) -> None:
        """Serve the period of these options; another one only if they decide so."""
        if _what_decides_the_period(options) != _what_decides_the_period(self._options):
            self._period = None
        self._options = options

    @property
    def period(self) -> Period:
        """The period served."""
        period = self._period
        if period is None:
            period = self.period = generate_period(self._options)
        return period

    @period.setter
    def period(self, period: Period) -> None:
        self._period = period
        body = period.messages_body
        if body is not self._messages.body:
            etag = blake2b(body, digest_size=16).hexdigest()
            self._messages = Reply(200, body, etag)

    def set_messages(self, messages: Sequence[Mapping[str, object]] | bytes) -> None:
        """Serve these messages, or these very bytes as the whole body."""
        is_body = isinstance(messages, bytes)
        body = _as_body(messages if is_body else {"messages": messages})
        self.period = msgspec.structs.replace(self.period, messages_body=body)

    def set_report(
        self, report_id: int | str, report: Mapping[str, object] | bytes | None
    ) -> None:
        """Serve this report, or these very bytes, for the id; `None` is a 404."""
        reports = dict(self.period.reports)
        reports.pop(str(report_id), None)
        if report is not None:
            reports[str(report_id)] = _as_body(report)
        self.period = msgspec.structs.replace(self.period, reports=reports)

    def look_up(self, path: str) -> Reply:
        """Find the healthy answer for a raw path."""
        place = path.removeprefix(ELSEWHERE)
        period = self.period
        if place == MESSAGES_PATH:
            return self._messages
        segment = place.removeprefix(REPORTS_PREFIX)
        if segment == place or "/" in segment:
            return UNKNOWN
        body = period.reports.get(unquote(segment))
        return UNKNOWN if body is None else Reply(200, body)


def _what_decides_the_period(options: SandboxOptions) -> tuple[int, int, int]:
    return options.messages, options.reports, options.seed


def _as_body(given: object) -> bytes:
    return given if isinstance(given, bytes) else msgspec.json.encode(given)
