"""Resolving report ids: each once, in parallel, bounded, from the cache or upstream.

No more tasks run than the client has slots, whatever the number of ids. If one fails
for good, or the refresh is cancelled, the others stop.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol
from urllib.parse import quote

import msgspec
import structlog
from msgspec import Meta, Struct

from service import metrics
from service.settings import Cache
from service.upstream.client import UpstreamClient, decode
from service.upstream.errors import UnexpectedStatus, UpstreamError
from service.usage.errors import ReportUnavailable
from service.usage.snapshots.build import ReportPrice, ResolvedReports
from service.usage.snapshots.messages import ReportKey

OnReportError = Literal["fail", "text"]

MAX_LOGGED_ID_CHARACTERS: Final = 100
NOT_FOUND: Final = HTTPStatus.NOT_FOUND
PATH_TEMPLATE: Final = "/reports/{id}"

KEYS_AT_ONCE: Final = 1_000
"""Keys looked up in the cache before other requests get their turn."""

MAX_CREDIT_COST: Final = 1_000_000_000
"""The highest cost of a report; 70,000 of them still add up exactly."""

_COST_BOUNDS: Final = Meta(ge=0, le=MAX_CREDIT_COST)
_MAX_DECIMALS: Final = 2

log = structlog.get_logger()


class Report(Struct, frozen=True):
    """Upstream's answer to `GET /reports/{id}`; `credit_cost` is in credits.

    A cost with more than two decimals is refused: it could not be billed exactly.
    """

    id: int | str
    name: str
    credit_cost: Annotated[int, _COST_BOUNDS] | Annotated[float, _COST_BOUNDS]

    def __post_init__(self) -> None:
        if round(self.credit_cost, _MAX_DECIMALS) != self.credit_cost:
            raise ValueError("credit_cost has more than two decimals")


class CachedReport(NamedTuple):
    """A report, or None where there is none, and the time until which it is young."""

    report: Report | None
    young_until: float


class ReportCache:
    """A least-recently-used cache of at most `max_reports` report ids."""

    def __init__(
        self, settings: Cache, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._entries: OrderedDict[str, CachedReport] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def young(self, key: str) -> CachedReport | None:
        """Return the entry of this key, if it is young."""
        entry = self._entries.get(key)
        if entry is None or self._clock() >= entry.young_until:
            return None
        self._entries.move_to_end(key)
        return entry

    def last_known(self, key: str) -> Report | None:
        """Return the last good copy of a report, however old."""
        entry = self._entries.get(key)
        return entry.report if entry else None

    def put(self, key: str, report: Report | None, age_s: float = 0.0) -> None:
        """Keep upstream's answer for a key, given now or `age_s` ago."""
        young_until = self._clock() - age_s + self.ttl_s(report)
        self._entries[key] = CachedReport(report, young_until)
        self._entries.move_to_end(key)
        if len(self._entries) > self._settings.max_reports:
            self._entries.popitem(last=False)
        metrics.reports_cached(len(self._entries))

    def ttl_s(self, report: Report | None) -> float:
        """Return how long a report, or None where there is none, stays young."""
        if report is None:
            return self._settings.missing_report_ttl_s
        return self._settings.report_ttl_s


class SharedReports(Protocol):
    """Reports that other processes have fetched; an interface to Redis."""

    async def read(self, keys: Collection[ReportKey]) -> None:
        """Put what others know of these keys into the cache of this process."""

    async def write(self, fetched: Mapping[ReportKey, Report | None]) -> None:
        """Let other processes read what was fetched."""


class Resolved(NamedTuple):
    """The report of each key; `failed` ones were unavailable, and are allowed to be.

    A key whose value is None has its messages priced by their texts.
    """

    reports: dict[ReportKey, Report | None]
    failed: set[ReportKey]

    def prices_of(self, keys: Sequence[ReportKey]) -> ResolvedReports:
        """Return the prices of these keys, in their order."""
        prices = [
            ReportPrice(report.name, round(report.credit_cost * 100))
            if report
            else None
            for report in map(self.reports.__getitem__, keys)
        ]
        failed = [place for place, key in enumerate(keys) if key in self.failed]
        return ResolvedReports(prices, failed)


class ReportResolver:
    """Resolves report ids: from the cache, else by calling upstream."""

    def __init__(
        self,
        client: UpstreamClient,
        cache: ReportCache,
        shared: SharedReports | None = None,
        *,
        concurrency: int,
        on_error: OnReportError,
    ) -> None:
        self._client = client
        self._cache = cache
        self._shared = shared
        self._fetched: dict[ReportKey, Report | None] = {}
        self._concurrency = concurrency
        self._on_error = on_error

    async def resolve(self, keys: Collection[ReportKey]) -> Resolved:
        """Resolve each key once; `ReportUnavailable` if one fails for good."""
        if self._shared is None:
            return await self._resolve(keys)
        await self._shared.read([key for key in keys if not self._cache.young(key)])
        self._fetched = {}
        try:
            return await self._resolve(keys)
        finally:
            await self._shared.write(self._fetched)

    async def _resolve(self, keys: Collection[ReportKey]) -> Resolved:
        resolved = Resolved({}, set())
        unknown = await self._resolve_from_cache(keys, resolved)
        waiting = iter(unknown)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(unknown), self._concurrency)):
                    group.create_task(self._resolve_next(waiting, resolved))
        except ExceptionGroup as errors:
            first = errors.exceptions[0]
            raise first from first.__cause__
        return resolved

    async def _resolve_from_cache(
        self, keys: Collection[ReportKey], resolved: Resolved
    ) -> list[ReportKey]:
        """Resolve keys whose cached report is young enough; return the other keys."""
        unknown = []
        for number, key in enumerate(keys, start=1):
            if number % KEYS_AT_ONCE == 0:
                await asyncio.sleep(0)
            cached = self._cache.young(key)
            if cached is None:
                unknown.append(key)
                continue
            resolved.reports[key] = cached.report
            log.debug(
                "report.resolved" if cached.report else "report.missing",
                report_id=shorten(key),
                attempts=0,
                cached=True,
            )
        return unknown

    async def _resolve_next(
        self, waiting: Iterator[ReportKey], resolved: Resolved
    ) -> None:
        for key in waiting:
            try:
                resolved.reports[key] = await self._fetch(key)
            except ReportUnavailable:
                if self._on_error == "fail":
                    raise
                resolved.reports[key] = None
                resolved.failed.add(key)

    async def _fetch(self, key: ReportKey) -> Report | None:
        try:
            response = await self._client.fetch(
                report_path(key), template=PATH_TEMPLATE
            )
            report = decode(response, _decoder)
        except UpstreamError as error:
            if isinstance(error, UnexpectedStatus) and error.status == NOT_FOUND:
                return self._keep(key, None, error.attempts)
            return self._last_known(key, error)
        return self._keep(key, report, response.attempts)

    def _keep(
        self, key: ReportKey, report: Report | None, attempts: int
    ) -> Report | None:
        """Keep upstream's answer, and return it."""
        self._cache.put(key, report)
        self._fetched[key] = report
        log.info(
            "report.resolved" if report else "report.missing",
            report_id=shorten(key),
            attempts=attempts,
            cached=False,
        )
        return report

    def _last_known(self, key: ReportKey, error: UpstreamError) -> Report:
        """Return the last good copy of a report that is unavailable, if any."""
        report = self._cache.last_known(key)
        log.warning(
            "report.failed",
            report_id=shorten(key),
            attempts=error.attempts,
            cached=report is not None,
            **{"error.type": error.error_type},
        )
        if report is None:
            raise ReportUnavailable(
                str(error), retry_after_s=error.retry_after_s
            ) from error
        return report


def report_path(key: ReportKey) -> str:
    """Return the path of a report; no id can leave it, not even one of dots alone."""
    segment = quote(key, safe="", errors="surrogatepass")
    return "/reports/" + (
        segment.replace(".", "%2E") if key in {".", ".."} else segment
    )


def log_invalid_id(report_id: Any) -> None:
    """Log an id that is never sent upstream."""
    encoded = msgspec.json.encode(report_id).decode()
    log.info("report.invalid_id", report_id=shorten(encoded), attempts=0, cached=False)


def shorten(key: str) -> str:
    """Return an id as logs show it, cut to a readable length."""
    return key[:MAX_LOGGED_ID_CHARACTERS]


_decoder: Final = msgspec.json.Decoder(Report)
