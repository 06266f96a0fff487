"""One refresh, from top to bottom: fetch, load, resolve, build.

Calls of the upstream and computing are separate steps. A refresh either returns a
whole snapshot or raises `RefreshFailed`; no request sees a part of it.
"""

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import structlog
from structlog.contextvars import bound_contextvars

from service.observability import tracing as telemetry
from service.settings import Settings
from service.storage.errors import StorageError
from service.upstream.bodies import UpstreamResponse
from service.upstream.errors import UpstreamError
from service.usage import metrics
from service.usage.errors import (
    DeadlineExceeded,
    MessagesUnavailable,
    RefreshFailed,
    WorkerLost,
)
from service.usage.price_log import log_prices
from service.usage.pricing.plans import Plan
from service.usage.reports import ReportResolver, Resolved, log_invalid_id
from service.usage.shared_snapshot import SharedSnapshot
from service.usage.shrink_guard import ShrinkGuard, find_shrink_by_count
from service.usage.snapshot import Snapshot, answer_headers
from service.usage.snapshots.build import ResolvedReports
from service.usage.snapshots.errors import RevisionGone
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.logged_prices import Priced, PriceLogging
from service.usage.snapshots.spans import Span
from service.usage.snapshots.store import (
    LoadedMessages,
    SnapshotStore,
)
from service.usage.snapshots.worker import PricingWorker, PricingWorkers
from service.usage.sources import MessageSource
from service.web.http_cache.encodings import Answer

ID_BYTES: Final = 8
MAX_LOGGED_NOW: Final = 200
"""Messages whose prices are logged in some milliseconds."""

log = structlog.get_logger()


class Run(NamedTuple):
    """One refresh: its ids, and the previous snapshot."""

    number: int
    refresh_id: str
    revision: str
    """The id of the snapshot that it may build."""
    previous: Snapshot | None
    span: Span | None
    """The billing month of the snapshot; None where the upstream decides."""
    is_servable: bool
    """True while the previous snapshot can be served instead of a doubtful one."""


class FetchedMessages(NamedTuple):
    """Messages that a worker has loaded, and the upstream's ETag of them."""

    worker: PricingWorker
    loaded: LoadedMessages
    etag: str | None


class Refresher:
    """Builds snapshots of the current period; one refresh at a time."""

    def __init__(
        self,
        settings: Settings,
        source: MessageSource,
        resolver: ReportResolver,
        plan: Plan,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._resolver = resolver
        self._plan = plan
        self._clock = clock
        self._deadline_s = settings.upstream.deadline_s
        self._max_logged = settings.logging.steps_per_refresh
        self._shrinks = ShrinkGuard(settings.cache.confirm_shrink_s, clock)
        self._numbers = itertools.count(1)
        self._logging: asyncio.Task[None] | None = None
        self.workers = PricingWorkers(settings.usage.own_process_bytes)

    def adopt(self, found: SharedSnapshot) -> Snapshot | None:
        """Return the snapshot of another process; None if this process has it."""
        # That process has fetched later, and found no shrink.
        self._shrinks.is_pending = False
        if found.parts is None:
            return None
        manifest, (answer, reports) = found.manifest, found.parts
        return Snapshot(
            number=next(self._numbers),
            revision=manifest.revision,
            refresh_id=manifest.refresh_id,
            etag=manifest.etag,
            digest=manifest.digest,
            reports=reports,
            plan=self._plan,
            summary=manifest.summary,
            answer=answer,
            worker=self.workers.choose(manifest.columns_bytes),
            has_texts=False,
            span=manifest.span,
            earlier=manifest.earlier,
        )

    async def close(self) -> None:
        """End the workers, after the last prices are logged."""
        await self._finish_logging()
        await self.workers.close()

    @telemetry.in_span("usage.refresh")
    async def run(
        self,
        previous: Snapshot | None,
        *,
        is_servable: bool,
        span: Span | None = None,
    ) -> Snapshot:
        """Return a new snapshot, or the previous one if nothing has changed.

        A list that has lost most messages needs confirmation only while the previous
        snapshot `is_servable`. Raises `RefreshFailed`.
        """
        refresh_id, revision = (secrets.token_hex(ID_BYTES) for _ in range(2))
        number = next(self._numbers)
        run = Run(number, refresh_id, revision, previous, span, is_servable)
        with bound_contextvars(refresh_id=refresh_id, revision=revision):
            return await self._run(run)

    async def _run(self, run: Run) -> Snapshot:
        started = self._clock()
        log.info("usage.refresh.started", plan=self._plan.id)
        try:
            with metrics.refreshing(self._clock):
                snapshot, reused = await self._build_in_time(run)
        except Exception as error:
            self._log_failure(error, started)
            raise
        log.info(
            "usage.refresh.finished",
            plan=snapshot.plan.id,
            messages=snapshot.summary.messages,
            reports=len(snapshot.reports.reports),
            missing_reports=_count_missing(snapshot.reports),
            credits_total=snapshot.summary.credits_total,
            duration_s=self._since(started),
            reused=reused,
            revision=snapshot.revision,
        )
        return snapshot

    def _log_failure(self, error: Exception, started: float) -> None:
        unexpected = {} if isinstance(error, RefreshFailed) else {"exc_info": error}
        log.error(
            "usage.refresh.failed",
            plan=self._plan.id,
            duration_s=self._since(started),
            reason=str(error),
            **{"error.type": type(error).__name__},
            **unexpected,
        )

    async def _build_in_time(self, run: Run) -> tuple[Snapshot, int]:
        built: Snapshot | None = None
        try:
            async with asyncio.timeout(self._deadline_s):
                built, reused = await self._build(run)
            return built, reused
        except TimeoutError:
            raise DeadlineExceeded(f"not finished in {self._deadline_s} s") from None
        finally:
            # No snapshot has this number, so nothing else would drop what a worker has
            # loaded or built for it, or still computes.
            if built is None or built.number != run.number:
                self.workers.drop(run.number)

    async def _build(self, run: Run) -> tuple[Snapshot, int]:
        """Return a snapshot, and the number of its messages with reused prices."""
        messages = await self._load(run)
        loaded = messages.loaded
        if run.is_servable and not _begins_month(run):
            await self._check_shrink(run, messages)
        for shown in loaded.invalid_ids:
            log_invalid_id(shown)
        reports = await self._resolver.resolve(loaded.report_keys)
        prices = reports.prices_of(loaded.report_keys)
        same = _find_same(run, loaded, reports)
        if same is not None and same.has_texts and same.is_here:
            # Equal bytes may have a new tag. With the old one, nothing would be 304.
            same.renew_etag(messages.etag)
            return same, loaded.messages
        if same is not None:
            # The content is the same, so the revision stays. This build adds the texts
            # or columns that the process lacks.
            run = run._replace(refresh_id=same.refresh_id, revision=same.revision)
        priced = await self._price(run, messages, prices)
        if same is None:
            # For the same content, an earlier refresh has logged the steps.
            await self._start_logging(priced)
        return await self._finish(run, messages, reports, priced), priced.reused

    async def _start_logging(self, priced: Priced) -> None:
        """Log prices: few of them now, and many while the snapshot is published."""
        await self._finish_logging()
        self._logging = asyncio.create_task(log_prices(priced))
        # Few lines take little time, and then precede the end of the refresh.
        is_short = len(priced.logged) <= MAX_LOGGED_NOW
        await (self._finish_logging() if is_short else asyncio.sleep(0))
        if self._logging.done():
            self._logging.result()

    async def _finish_logging(self) -> None:
        if self._logging is not None:
            await asyncio.wait([self._logging])

    async def _check_shrink(self, run: Run, messages: FetchedMessages) -> None:
        """Raise `ShrinkUnconfirmed` for a list that has lost most known messages."""
        worker, loaded, _ = messages
        previous, shrink = run.previous, loaded.shrink
        if previous is not None and not previous.is_here:
            # Without the columns, only the counts can be compared.
            shrink = find_shrink_by_count(previous.summary.messages, loaded.messages)
        elif previous is not None and previous.worker is not worker:
            # The size has crossed `own_process_bytes`: the worker is another one.
            known = await previous.worker.query(SnapshotStore.known, previous.number)
            shrink = await worker.compute(SnapshotStore.find_shrink, run.number, known)
        # A list without a shrink ends one that waits for confirmation.
        if shrink is not None or self._shrinks.is_pending:
            self._shrinks.check(loaded.messages, shrink)

    async def _load(self, run: Run) -> FetchedMessages:
        """Fetch the messages, and have a worker decode them."""
        number, previous, span = run.number, run.previous, run.span
        # A 304 is useful only if the worker still has the messages.
        is_known = previous is not None and previous.has_texts and previous.is_here
        known = previous if is_known else None
        fetched = await self._fetch(known.etag if known else None, span)
        body, before = fetched.body, previous.number if previous else None
        if body is None:
            if known is None:
                raise MessagesUnavailable("304, though the call was not conditional")
            loaded = await known.worker.load(number, None, before, span)
            return FetchedMessages(known.worker, loaded, known.etag)
        worker = self.workers.choose(len(body))
        try:
            loaded = await worker.load(number, body, before, span)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MessagesUnavailable(str(error)) from error
        return FetchedMessages(worker, loaded, fetched.etag)

    async def _fetch(
        self, known_etag: str | None, span: Span | None
    ) -> UpstreamResponse:
        try:
            return await self._source.fetch(known_etag, span)
        except UpstreamError as error:
            raise MessagesUnavailable(
                str(error), retry_after_s=error.retry_after_s
            ) from error
        except (StorageError, ValueError, RecursionError) as error:
            raise MessagesUnavailable(str(error)) from error

    async def _price(
        self, run: Run, messages: FetchedMessages, prices: ResolvedReports
    ) -> Priced:
        """Have the worker price the messages and encode the answer."""
        try:
            return await messages.worker.compute(
                SnapshotStore.build,
                run.number,
                run.previous.number if run.previous else None,
                prices,
                PriceLogging(run.refresh_id, self._max_logged),
                plan=self._plan.id,
            )
        except RevisionGone as error:
            raise WorkerLost(str(error)) from error

    async def _finish(
        self, run: Run, messages: FetchedMessages, reports: Resolved, priced: Priced
    ) -> Snapshot:
        worker, loaded, etag = messages
        summary = priced.summary
        if run.span is not None and summary.messages:
            summary = summary._replace(begins_on=run.span.begins_on)
        body = await worker.answer(run.number, self._plan.id, JSON)
        headers = answer_headers(summary, run.revision)
        answer = await Answer.of(body, JSON, headers, priced.answer_digest)
        return Snapshot(
            number=run.number,
            revision=run.revision,
            refresh_id=run.refresh_id,
            etag=etag,
            digest=loaded.digest,
            reports=reports,
            plan=self._plan,
            summary=summary,
            answer=answer,
            worker=worker,
            has_texts=True,
            span=run.span,
            earlier=loaded.earlier,
            quarter_sums=priced.quarter_sums,
        )

    def _since(self, started: float) -> float:
        return round(self._clock() - started, 6)


def _begins_month(run: Run) -> bool:
    """Return whether the previous snapshot has the messages of another month."""
    if run.span is None or run.previous is None:
        return False
    return run.previous.summary.begins_on not in {None, run.span.begins_on}


def _count_missing(resolved: Resolved) -> int:
    """Return the number of reports that the upstream answered with 404."""
    absent = sum(report is None for report in resolved.reports.values())
    return absent - len(resolved.failed)


def _find_same(run: Run, loaded: LoadedMessages, reports: Resolved) -> Snapshot | None:
    """Return the previous snapshot if its messages and its reports are the same."""
    previous = run.previous
    if previous is None or previous.digest != loaded.digest:
        return None
    # Two months without messages have the same ones.
    if previous.span != run.span:
        return None
    return previous if previous.reports == reports else None
