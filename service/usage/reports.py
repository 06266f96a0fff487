"""Resolution of report ids: each once, from the cache or the upstream, in parallel.

The number of tasks is bounded. If a report fails permanently, or the refresh is
cancelled, all tasks stop.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Final, Literal, NamedTuple, Protocol
from urllib.parse import quote

import msgspec
import structlog
from msgspec import Meta, Struct
from msgspec.structs import replace

from service.settings import CacheSettings
from service.storage.lru_cache import LruCache
from service.upstream import lenient_json
from service.upstream.bodies import decode
from service.upstream.client import UpstreamClient
from service.upstream.errors import UnexpectedStatus, UpstreamError
from service.usage import metrics
from service.usage.errors import ReportUnavailable
from service.usage.snapshots.build import ReportPrice, ResolvedReports
from service.usage.snapshots.messages import MAX_LOGGED_ID_CHARACTERS, ReportKey

OnReportError = Literal["fail", "text"]

NOT_FOUND: Final = HTTPStatus.NOT_FOUND
PATH_TEMPLATE: Final = "/reports/{id}"

KEYS_AT_ONCE: Final = 1_000
"""Keys looked up in the cache before the event loop serves other requests."""

MAX_CREDIT_COST: Final = 1_000_000_000
"""Upper bound of `credit_cost`, in credits: the sum of 70,000 is still exact."""

_COST_BOUNDS: Final = Meta(ge=0, le=MAX_CREDIT_COST)
_MAX_DECIMALS: Final = 2
_MAX_ID_BITS: Final = 63
"""Of integers that every encoding has, with their sign."""

log = structlog.get_logger()


class Report(Struct, frozen=True):
    """The upstream's answer to `GET /reports/{id}`; `credit_cost` is in credits.

    Raises `ValueError` for a cost with more than two decimals.
    """

    id: int | str
    name: str
    credit_cost: Annotated[int, _COST_BOUNDS] | Annotated[float, _COST_BOUNDS]

    def __post_init__(self) -> None:
        if round(self.credit_cost, _MAX_DECIMALS) != self.credit_cost:
            raise ValueError("credit_cost has more than two decimals")


class CachedReport(NamedTuple):
    """A report, None for a 404, and the time until which it needs no new call."""

    report: Report | None
    young_until: float


class ReportCache:
    """A least-recently-used cache of at most `max_reports` report ids."""

    def __init__(
        self, settings: CacheSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._entries = LruCache[str, CachedReport](settings.max_reports)

    def __len__(self) -> int:
        return len(self._entries)

    def young(self, key: str) -> CachedReport | None:
        """Return the entry of this key, if it is young."""
        entry = self._entries.get(key)
        if entry is None or self._clock() >= entry.young_until:
            return None
        return entry

    def last_known(self, key: str) -> Report | None:
        """Return the last good copy of a report, of any age."""
        entry = self._entries.peek(key)
        return entry.report if entry else None

    def put(self, key: str, report: Report | None, age_s: float = 0.0) -> None:
        """Cache the upstream's answer for a key, fetched `age_s` ago."""
        young_until = self._clock() - age_s + self.ttl_s(report)
        self._entries.put(key, CachedReport(report, young_until))
        metrics.reports_cached(len(self._entries))

    def ttl_s(self, report: Report | None) -> float:
        """Return the time to live of a report, or of a 404 for None, in seconds."""
        if report is None:
            return self._settings.missing_report_ttl_s
        return self._settings.report_ttl_s


class SharedReports(Protocol):
    """Reports that other processes have fetched; an interface to Redis."""

    async def read(self, keys: Collection[ReportKey]) -> None:
        """Put the reports of other processes into the cache of this one."""

    async def write(self, fetched: Mapping[ReportKey, Report | None]) -> None:
        """Share fetched reports."""


class Resolved(NamedTuple):
    """The report of each key; for None, texts price the messages.

    `failed` are the keys of unavailable reports, where the settings allow these.
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


class _Resolution(NamedTuple):
    """The results of one call of `resolve` so far."""

    resolved: Resolved
    fetched: dict[ReportKey, Report | None]
    """The answers of the upstream, to be shared with other processes."""


class ReportResolver:
    """Resolves report ids from the cache, or by calling the upstream."""

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
        self._concurrency = concurrency
        self._on_error = on_error

    async def resolve(self, keys: Collection[ReportKey]) -> Resolved:
        """Resolve each key once; `ReportUnavailable` if one fails permanently."""
        resolution = _Resolution(Resolved({}, set()), {})
        if self._shared is None:
            return await self._resolve(keys, resolution)
        await self._shared.read([key for key in keys if not self._cache.young(key)])
        try:
            return await self._resolve(keys, resolution)
        finally:
            # After a failure too: the next refresh need not fetch these reports again.
            await self._shared.write(resolution.fetched)

    async def _resolve(
        self, keys: Collection[ReportKey], resolution: _Resolution
    ) -> Resolved:
        unknown = await self._resolve_from_cache(keys, resolution.resolved)
        queue = iter(unknown)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(unknown), self._concurrency)):
                    group.create_task(self._resolve_next(queue, resolution))
        except ExceptionGroup as errors:
            # The first failure cancels the other tasks, so it is the cause.
            first = errors.exceptions[0]
            raise first from first.__cause__
        return resolution.resolved

    async def _resolve_from_cache(
        self, keys: Collection[ReportKey], resolved: Resolved
    ) -> list[ReportKey]:
        """Resolve the keys with a young cached report; return the other keys."""
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
        self, queue: Iterator[ReportKey], resolution: _Resolution
    ) -> None:
        resolved, fetched = resolution
        # All tasks share the iterator, so a slow report delays no other key.
        for key in queue:
            try:
                resolved.reports[key] = await self._fetch(key, fetched)
            except ReportUnavailable:
                if self._on_error == "fail":
                    raise
                resolved.reports[key] = None
                resolved.failed.add(key)

    async def _fetch(
        self, key: ReportKey, fetched: dict[ReportKey, Report | None]
    ) -> Report | None:
        try:
            response = await self._client.fetch(
                report_path(key), template=PATH_TEMPLATE
            )
            report = _encodable(decode(response, _decoder))
        except UpstreamError as error:
            if isinstance(error, UnexpectedStatus) and error.status == NOT_FOUND:
                fetched[key] = self._store(key, None, error.attempts)
                return None
            return self._last_known(key, error)
        fetched[key] = self._store(key, report, response.attempts)
        return report

    def _store(
        self, key: ReportKey, report: Report | None, attempts: int
    ) -> Report | None:
        """Cache the upstream's answer, and return it."""
        self._cache.put(key, report)
        log.info(
            "report.resolved" if report else "report.missing",
            report_id=shorten(key),
            attempts=attempts,
            cached=False,
        )
        return report

    def _last_known(self, key: ReportKey, error: UpstreamError) -> Report:
        """Return the last good copy of an unavailable report.

        Raises `ReportUnavailable` without one.
        """
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
    """Return the path of a report, whose last segment is the id, percent-encoded."""
    return "/reports/" + quote(key, safe="", errors="surrogatepass")


def _encodable(report: Report) -> Report:
    """Return a report that can be encoded, in answers and for other processes."""
    report_id, name = report.id, report.name
    # MessagePack has no integers of more than 64 bits.
    if isinstance(report_id, int) and report_id.bit_length() > _MAX_ID_BITS:
        report_id = str(report_id)
    elif isinstance(report_id, str) and lenient_json.has_surrogate(report_id):
        report_id = lenient_json.without_surrogates(report_id)
    if lenient_json.has_surrogate(name):
        name = lenient_json.without_surrogates(name)
    return replace(report, id=report_id, name=name)


def log_invalid_id(shown: str) -> None:
    """Log an id that is never sent to the upstream, as `show_invalid_id` returns it."""
    log.info("report.invalid_id", report_id=shown, attempts=0, cached=False)


def shorten(key: str) -> str:
    """Return an id for the log, cut to `MAX_LOGGED_ID_CHARACTERS`."""
    return key[:MAX_LOGGED_ID_CHARACTERS]


_decoder: Final = msgspec.json.Decoder(Report)
