"""A fake of copilot's API: the messages of the current period, and its reports."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final
from urllib.parse import unquote

import msgspec

from service.sandbox.faults import MESSAGES_PATH, REDIRECT_PREFIX, REPORTS_PREFIX, Reply
from service.sandbox.options import SandboxOptions
from service.sandbox.periods import Period, generate_period

NOT_FOUND: Final = Reply(404, b'{"error":"no such thing"}')


class FakeCopilot:
    """Serves a period, which is generated on first use."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self._period: Period | None = None
        self._messages = NOT_FOUND

    def set_options(self, options: SandboxOptions) -> None:
        """Use these options; another size or seed gives another period."""
        if _period_options(options) != _period_options(self._options):
            self._period = None
        self._options = options

    @property
    def period(self) -> Period:
        """The period that is served."""
        period = self._period
        if period is None:
            period = self.period = generate_period(self._options)
        return period

    @period.setter
    def period(self, period: Period) -> None:
        self._period = period
        body = period.messages_body
        # A change of a report keeps the body, and a digest of a large one takes long.
        if body is not self._messages.body:
            etag = blake2b(body, digest_size=16).hexdigest()
            self._messages = Reply(200, body, etag)

    def set_messages(self, messages: Sequence[Mapping[str, object]] | bytes) -> None:
        """Serve these messages, or these bytes as the whole body."""
        is_body = isinstance(messages, bytes)
        body = _as_body(messages if is_body else {"messages": messages})
        self.period = msgspec.structs.replace(self.period, messages_body=body)

    def set_report(
        self, report_id: int | str, report: Mapping[str, object] | bytes | None
    ) -> None:
        """Serve this report, or these bytes as its body; `None` is a 404."""
        reports = dict(self.period.reports)
        reports.pop(str(report_id), None)
        if report is not None:
            reports[str(report_id)] = _as_body(report)
        self.period = msgspec.structs.replace(self.period, reports=reports)

    def reply_to(self, path: str) -> Reply:
        """Return the reply without a fault to a raw path."""
        path = path.removeprefix(REDIRECT_PREFIX)
        period = self.period
        if path == MESSAGES_PATH:
            return self._messages
        segment = path.removeprefix(REPORTS_PREFIX)
        if segment == path or "/" in segment:
            return NOT_FOUND
        body = period.reports.get(unquote(segment))
        return NOT_FOUND if body is None else Reply(200, body)


def _period_options(options: SandboxOptions) -> tuple[int, int, int]:
    return options.messages, options.reports, options.seed


def _as_body(value: object) -> bytes:
    return value if isinstance(value, bytes) else msgspec.json.encode(value)
