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
from service.usage.report_cache import Reported

ReportKey = str
"""A usable report id, as it is asked for: 7 and "7" are the same report."""

OnReportError = Literal["fail", "text"]

MAX_KEY_CHARACTERS: Final = 2_000
MAX_LOGGED_ID_CHARACTERS: Final = 100
NOT_FOUND: Final = HTTPStatus.NOT_FOUND
PATH_TEMPLATE: Final = "/reports/{id}"

KEYS_AT_ONCE: Final = 1_000
"""Keys looked up in the cache before other requests get their turn."""

_decoder: Final = msgspec.json.Decoder(Report)

log = structlog.get_logger()


class Settled(NamedTuple):
    """What became of the keys; `failed` ones could not be had and are allowed to be.

    A key whose value is None has its messages priced by their text.
    """

    reports: dict[ReportKey, Report | None]
    failed: set[ReportKey]

    @property
    def missing(self) -> int:
        """Reports that upstream says do not exist."""
        absent = sum(report is None for report in self.reports.values())
        return absent - len(self.failed)


class Reports:
    """Settles report ids: from the cache, else against upstream."""

    def __init__(
        self,
        client: UpstreamClient,
        cache: Reported,
        *,
        concurrency: int,
        on_error: OnReportError,
    ) -> None:
        self._client = client
        self._cache = cache
        self._concurrency = concurrency
        self._on_error = on_error

    async def settle(self, keys: Collection[ReportKey]) -> Settled:
        """Settle each key once; `ReportUnavailable` if one fails for good."""
        await self._cache.recall(keys)
        try:
            return await self._settle(keys)
        finally:
            await self._cache.tell()

    async def _settle(self, keys: Collection[ReportKey]) -> Settled:
        settled = Settled({}, set())
        unknown = await self._settle_from_cache(keys, settled)
        waiting = iter(unknown)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(unknown), self._concurrency)):
                    group.create_task(self._settle_from(waiting, settled))
        except ExceptionGroup as errors:
            first = errors.exceptions[0]
            raise first from first.__cause__
        return settled

    async def _settle_from_cache(
        self, keys: Collection[ReportKey], settled: Settled
    ) -> list[ReportKey]:
        """Settle what is held and young enough; returns the other keys."""
        unknown = []
        for number, key in enumerate(keys, start=1):
            if number % KEYS_AT_ONCE == 0:
                await asyncio.sleep(0)
            held = self._cache.young(key)
            if held is None:
                unknown.append(key)
                continue
            settled.reports[key] = held.report
            event = "report.resolved" if held.report else "report.missing"
            log.debug(event, report_id=shown(key), attempts=0, cached=True)
        return unknown

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
            fetched = await self._client.fetch(
                report_path(key), _decoder.decode, template=PATH_TEMPLATE
            )
        except UpstreamError as error:
            if isinstance(error, UnexpectedStatus) and error.status == NOT_FOUND:
                self._cache.put(key, None)
                _log_settled("report.missing", key, error.attempts)
                return None
            return self._last_known(key, error)
        self._cache.put(key, fetched.value)
        _log_settled("report.resolved", key, fetched.attempts)
        return fetched.value

    def _last_known(self, key: ReportKey, error: UpstreamError) -> Report:
        """The last good copy of a report that cannot be had, if one is held."""
        report = self._cache.last_known(key)
        log.warning(
            "report.failed",
            report_id=shown(key),
            attempts=error.attempts,
            cached=report is not None,
            **{"error.type": error.error_type},
        )
        if report is None:
            reason = str(error)
            raise ReportUnavailable(
                reason, retry_after_s=error.retry_after_s
            ) from error
        return report


def report_key(report_id: Any) -> ReportKey | None:
    """The key of a usable id, or None: usable are integers and non-empty strings.

    Longer ones than fit a URL would be refused by any server, and one of them would
    fail the whole period; they count as unusable.
    """
    if type(report_id) not in {int, str}:
        return None
    key = str(report_id)
    return key if 0 < len(key) <= MAX_KEY_CHARACTERS else None


def report_path(key: ReportKey) -> str:
    """The path of a report; no id can leave it, not even one of dots alone."""
    segment = quote(key, safe="", errors="surrogatepass")
    return "/reports/" + (
        segment.replace(".", "%2E") if key in {".", ".."} else segment
    )


def log_invalid_id(report_id: Any) -> None:
    """Log an id that is never asked for."""
    encoded = msgspec.json.encode(report_id).decode()
    log.info("report.invalid_id", report_id=shown(encoded), attempts=0, cached=False)


def shown(key: str) -> str:
    """An id as logs show it, cut to a readable length."""
    return key[:MAX_LOGGED_ID_CHARACTERS]


def _log_settled(event: str, key: ReportKey, attempts: int) -> None:
    log.info(event, report_id=shown(key), attempts=attempts, cached=False)
