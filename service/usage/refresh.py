"""One refresh, top to bottom: fetch, load, resolve, build.

The network and our own work are separate steps. A refresh either returns a whole
snapshot or raises `RefreshFailed`; until its end nobody sees anything of it.
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

from service import metrics, telemetry
from service.settings import Settings
from service.storage.errors import StorageError
from service.upstream.client import UpstreamResponse
from service.upstream.errors import UpstreamError
from service.usage.encodings import Answer, answer_headers
from service.usage.errors import (
    DeadlineExceeded,
    MessagesUnavailable,
    RefreshFailed,
    WorkerLost,
)
from service.usage.pricing.plans import Plan
from service.usage.reports import ReportResolver, Resolved, log_invalid_id
from service.usage.shared_cache import SharedSnapshot
from service.usage.shrinks import ShrinkGuard, find_shrink_by_count
from service.usage.snapshots.build import ResolvedReports
from service.usage.snapshots.errors import RevisionGone
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.snapshot import Snapshot
from service.usage.snapshots.store import (
    Loaded,
    LoggedPrice,
    Logging,
    Priced,
    SnapshotStore,
)
from service.usage.snapshots.worker import Worker, Workers
from service.usage.sources import MessageSource

ID_BYTES: Final = 8
LOGGED_AT_ONCE: Final = 20
"""Messages whose steps are logged before other requests get their turn."""

log = structlog.get_logger()


class Run(NamedTuple):
    """One refresh: its ids, and the snapshot before."""

    number: int
    refresh_id: str
    revision: str
    """The id of the snapshot that it may build."""
    previous: Snapshot | None
    is_servable: bool
    """True while the snapshot before can be served instead of a doubtful one."""


class Messages(NamedTuple):
    """Messages that a worker has loaded, and upstream's tag of them."""

    worker: Worker
    loaded: Loaded
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
        self.workers = Workers(settings.usage.own_process_bytes)

    def adopt(self, found: SharedSnapshot) -> Snapshot | None:
        """Return the snapshot that another process has built; None if it is known."""
        self._shrinks.is_pending = False  # that process has found no shrink since
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
        )

    @telemetry.in_span("usage.refresh")
    async def run(self, previous: Snapshot | None, *, is_servable: bool) -> Snapshot:
        """Return the current period: the previous snapshot where nothing has changed.

        A list that has lost most messages is doubted only while the previous snapshot
        `is_servable`. Raises `RefreshFailed`. Every line that is logged on the way
        carries the ids of the refresh.
        """
        refresh_id, revision = (secrets.token_hex(ID_BYTES) for _ in range(2))
        run = Run(next(self._numbers), refresh_id, revision, previous, is_servable)
        with bound_contextvars(refresh_id=refresh_id, revision=revision):
            return await self._run(run)

    async def _run(self, run: Run) -> Snapshot:
        started = self._clock()
        log.info("usage.refresh.started", plan=self._plan.id)
        try:
            with metrics.refreshing(self._clock):
                snapshot, reused = await self._build_in_time(run)
        except Exception as error:
            unexpected = {} if isinstance(error, RefreshFailed) else {"exc_info": error}
            log.error(
                "usage.refresh.failed",
                plan=self._plan.id,
                duration_s=self._since(started),
                reason=str(error),
                **{"error.type": type(error).__name__},
                **unexpected,
            )
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

    async def _build_in_time(self, run: Run) -> tuple[Snapshot, int]:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._build(run)
        except TimeoutError:
            raise DeadlineExceeded(f"not finished in {self._deadline_s} s") from None

    async def _build(self, run: Run) -> tuple[Snapshot, int]:
        """Return a snapshot, and how many of its messages were priced before."""
        messages = await self._load(run)
        loaded = messages.loaded
        if run.is_servable:
            await self._check_shrink(run, messages)
        for report_id in loaded.invalid_ids:
            log_invalid_id(report_id)
        reports = await self._resolver.resolve(loaded.report_keys)
        prices = reports.prices_of(loaded.report_keys)
        same = _same(run.previous, loaded, reports)
        if same is not None and same.has_texts and same.is_here:
            return same, loaded.messages
        if same is not None:
            run = run._replace(refresh_id=same.refresh_id, revision=same.revision)
        priced = await self._price(run, messages, prices)
        if same is None:
            await log_prices(priced)
        return await self._finish(run, messages, reports, priced), priced.reused

    async def _check_shrink(self, run: Run, messages: Messages) -> None:
        """Raise `ShrinkUnconfirmed` for a list that has suddenly lost most messages."""
        worker, loaded, _ = messages
        previous, shrink = run.previous, loaded.shrink
        if previous is not None and not previous.is_here:
            shrink = find_shrink_by_count(previous.summary.messages, loaded.messages)
        elif previous is not None and previous.worker is not worker:
            known = await previous.worker.query(SnapshotStore.known, previous.number)
            shrink = await worker.compute(SnapshotStore.find_shrink, run.number, known)
        if shrink is not None or self._shrinks.is_pending:
            self._shrinks.check(loaded.messages, shrink)

    async def _load(self, run: Run) -> Messages:
        """Fetch the messages, and have a worker read them."""
        number, previous = run.number, run.previous
        known = (
            previous if previous and previous.has_texts and previous.is_here else None
        )
        fetched = await self._fetch(known.etag if known else None)
        body, before = fetched.body, previous.number if previous else None
        if body is None:
            if known is None:
                raise MessagesUnavailable("304, though the call was not conditional")
            loaded = await known.worker.load(number, None, before)
            return Messages(known.worker, loaded, known.etag)
        worker = self.workers.choose(len(body))
        try:
            loaded = await worker.load(number, body, before)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MessagesUnavailable(str(error)) from error
        return Messages(worker, loaded, fetched.etag)

    async def _fetch(self, known_etag: str | None) -> UpstreamResponse:
        try:
            return await self._source.fetch(known_etag)
        except UpstreamError as error:
            raise MessagesUnavailable(
                str(error), retry_after_s=error.retry_after_s
            ) from error
        except (StorageError, ValueError, RecursionError) as error:
            raise MessagesUnavailable(str(error)) from error

    async def _price(
        self, run: Run, messages: Messages, prices: ResolvedReports
    ) -> Priced:
        """Have the worker price and encode; nobody sees that yet."""
        try:
            return await messages.worker.compute(
                SnapshotStore.build,
                run.number,
                run.previous.number if run.previous else None,
                prices,
                Logging(run.refresh_id, self._max_logged),
                plan=self._plan.id,
            )
        except RevisionGone as error:
            raise WorkerLost(str(error)) from error
        except asyncio.CancelledError:
            messages.worker.drop(run.number)
            raise

    async def _finish(
        self, run: Run, messages: Messages, reports: Resolved, priced: Priced
    ) -> Snapshot:
        worker, loaded, etag = messages
        try:
            body = await worker.answer(run.number, self._plan.id, JSON)
            headers = answer_headers(priced.summary, run.revision)
            answer = await Answer.of(body, JSON, headers)
        except BaseException:
            worker.drop(run.number)
            raise
        return Snapshot(
            number=run.number,
            revision=run.revision,
            refresh_id=run.refresh_id,
            etag=etag,
            digest=loaded.digest,
            reports=reports,
            plan=self._plan,
            summary=priced.summary,
            answer=answer,
            worker=worker,
            has_texts=True,
        )

    def _since(self, started: float) -> float:
        return round(self._clock() - started, 6)


def _count_missing(resolved: Resolved) -> int:
    """Return the number of reports that upstream says do not exist."""
    absent = sum(report is None for report in resolved.reports.values())
    return absent - len(resolved.failed)


def _same(
    previous: Snapshot | None, loaded: Loaded, reports: Resolved
) -> Snapshot | None:
    """Return the previous snapshot if messages and reports are exactly its own."""
    if previous is None or previous.digest != loaded.digest:
        return None
    return previous if previous.reports == reports else None


async def log_prices(priced: Priced) -> None:
    """Log each step of the messages priced now, letting other requests in between."""
    for number, price in enumerate(priced.logged, start=1):
        _log_price(priced.summary.plan, price)
        if number % LOGGED_AT_ONCE == 0:
            await asyncio.sleep(0)
    if priced.omitted:
        log.info("credits.steps_omitted", messages=priced.omitted)


def _log_price(plan: str, price: LoggedPrice) -> None:
    bound = log.bind(message_id=price.message_id)
    for step in price.steps:
        bound.info(
            "credits.step",
            plan=plan,
            step=step.step,
            credits=step.credits,
            total=step.total,
        )
    named = {"report_id": price.report_id} if price.source == "report" else {}
    bound.info(
        "credits.rated",
        source=price.source,
        **named,
        credits_used=price.credits_used,
    )
