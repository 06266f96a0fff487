"""Report ids: which can be asked for, and what upstream says of each, asked once.

Settling is parallel and bounded: no more tasks than the client has slots, whatever
the number of ids. If one fails for good, or the caller leaves, the others stop.
"""

import asyncio
from collections.abc import Collection, Iterator
from http import HTTPStatus
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote

import msgspec
import structlog

from service.upstream.client import UpstreamClient
from service.upstream.errors import UnexpectedStatus, UpstreamError
from service.usage.errors import ReportUnavailable
from service.usage.model import Report

ReportKey = str
"""A usable report id, as it is asked for: 7 and "7" are the same report."""

OnReportError = Literal["fail", "text"]

MAX_LOGGED_ID_CHARACTERS: Final = 100

_read_report: Final = msgspec.json.Decoder(Report).decode

log = structlog.get_logger()


class Settled(NamedTuple):
    """What became of the keys; `failed` ones could not be had and are allowed to be.

    A key whose value is None has its messages priced by their text.
    """

    reports: dict[ReportKey, Report | None]
    failed: set[ReportKey]


class Reports:
    """Settles report ids against upstream."""

    def __init__(
        self, client: UpstreamClient, concurrency: int, on_error: OnReportError
    ) -> None:
        self._client = client
        self._concurrency = concurrency
        self._on_error = on_error

    async def settle(self, keys: Collection[ReportKey]) -> Settled:
        """Ask upstream for each key once; `ReportUnavailable` if one fails for good."""
        settled = Settled({}, set())
        waiting = iter(keys)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(keys), self._concurrency)):
                    group.create_task(self._settle_from(waiting, settled))
        except ExceptionGroup as errors:
            first = errors.exceptions[0]
            raise first from first.__cause__
        return settled

    async def _settle_from(
        self, waiting: Iterator[ReportKey], settled: Settled
    ) -> None:
        for key in waiting:
            try:
                settled.reports[key] = await self._ask(key)
            except ReportUnavailable:
                if self._on_error == "fail":
                    raise
                settled.reports[key] = None
                settled.failed.add(key)

    async def _ask(self, key: ReportKey) -> Report | None:
        try:
            fetched = await self._client.fetch(report_path(key), _read_report)
        except UnexpectedStatus as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise _unavailable(key, error) from error
            _log_settled("report.missing", key, error.attempts)
            return None
        except UpstreamError as error:
            raise _unavailable(key, error) from error
        _log_settled("report.resolved", key, fetched.attempts)
        return fetched.value


def report_key(report_id: Any) -> ReportKey | None:
    """The key of a usable id, or None: usable are integers and non-empty strings."""
    if type(report_id) is int:
        return str(report_id)
    if type(report_id) is str and report_id:
        return report_id
    return None


def report_path(key: ReportKey) -> str:
    """The path of a report; no id can leave it, not even one of dots alone."""
    segment = quote(key, safe="", errors="surrogatepass")
    return "/reports/" + (
        segment.replace(".", "%2E") if key in {".", ".."} else segment
    )


def log_invalid_id(report_id: Any) -> None:
    """Log an id that is never asked for, cut to a readable length."""
    shown = msgspec.json.encode(report_id).decode()[:MAX_LOGGED_ID_CHARACTERS]
    log.info("report.invalid_id", report_id=shown, attempts=0, cached=False)


def _log_settled(event: str, key: ReportKey, attempts: int) -> None:
    shown = key[:MAX_LOGGED_ID_CHARACTERS]
    log.info(event, report_id=shown, attempts=attempts, cached=False)


def _unavailable(key: ReportKey, error: UpstreamError) -> ReportUnavailable:
    log.warning(
        "report.failed",
        report_id=key[:MAX_LOGGED_ID_CHARACTERS],
        attempts=error.attempts,
        cached=False,
        **{"error.type": error.error_type},
    )
    return ReportUnavailable(str(error), retry_after_s=error.retry_after_s)
