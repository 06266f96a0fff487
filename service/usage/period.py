"""The current period, held: fetched once for all callers, and again when it is old.

Callers get the held period as long as it is fresh; for some time after that they still
get it at once, while one refresh runs beside them. They wait only where nothing young
enough is held, all for the same refresh; one who leaves does not end it.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import structlog

from service import metrics, telemetry
from service.settings import Settings
from service.storage.shared_store import SharedStore
from service.upstream.client import Reader, UpstreamClient
from service.usage.bookkeeping import (
    Bookkeeper,
    InlineBookkeeper,
    LazyBookkeeper,
    ProcessBookkeeper,
)
from service.usage.books import Books, Contents
from service.usage.encodings import Answer
from service.usage.errors import (
    BooksLost,
    DeadlineExceeded,
    RefreshFailed,
    UnknownPlan,
)
from service.usage.formats import JSON
from service.usage.freshness import Forward, Freshness, Policy
from service.usage.generations import Generation, Offer
from service.usage.held import HeldPeriod, View
from service.usage.messages import MessageSource, UpstreamMessages
from service.usage.price_log import log_prices
from service.usage.rating import PLANS, Plan
from service.usage.report_cache import ReportCache
from service.usage.reports import Reports, Settled, log_invalid_id
from service.usage.shared_parts import Packed
from service.usage.shared_reports import share_reports
from service.usage.sharing import Wish, share_periods

log = structlog.get_logger()


class CurrentPeriod:
    """Holds the current period and refreshes it; one for each process."""

    def __init__(
        self,
        settings: Settings,
        client: UpstreamClient,
        clock: Callable[[], float] = time.monotonic,
        *,
        messages: MessageSource | None = None,
        store: SharedStore | None = None,
    ) -> None:
        self._messages = messages or UpstreamMessages(client)
        self._shared = share_periods(settings, store)
        self.clock = clock
        self._policy = Policy.of(settings.cache)
        self._pause_s = settings.cache.pause_after_failure_s
        self._deadline_s = settings.upstream.deadline_s
        self._plan = find_plan(settings.usage.plan)
        self._most_told = settings.logging.steps_per_refresh
        self._large_bytes = settings.usage.own_process_bytes
        self._reports = Reports(
            client,
            share_reports(ReportCache(settings.cache, clock), store),
            concurrency=settings.upstream.concurrency,
            on_error=settings.usage.on_report_error,
        )
        self._small, self._large = InlineBookkeeper(), ProcessBookkeeper()
        self.held: HeldPeriod | None = None
        self._filling = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._paused_until = -math.inf
        self._renewed_at = -math.inf

    @property
    def default_plan(self) -> Plan:
        """The plan that prices where a question names none."""
        return self._plan

    async def view(self, plan_name: str | None = None) -> View:
        """The period under a plan, the configured one by default.

        Raises `UnknownPlan`; `RefreshFailed` where nothing young enough is held.
        """
        plan = self._plan if plan_name is None else find_plan(plan_name)
        held, forward = await self._find()
        if plan.id not in held.priced:
            await self._price(held, plan)
        return View(held, plan, self._policy.judge(self._age(held), forward))

    def fresh_answer(self, media_type: str) -> tuple[Answer, Freshness, float] | None:
        """The default plan's answer and until when it is fresh; never waits.

        None where it is not ready or not fresh.
        """
        if self.held is None:
            return None
        age_s = self._age(self.held)
        answer = self.held.answers.get((self._plan.id, media_type))
        if answer is None or age_s >= self._policy.ttl_s:
            return None
        fresh_until = self.held.fetched_at + self._policy.ttl_s
        return answer, self._policy.judge(age_s), fresh_until

    async def close(self) -> None:
        """Stop refreshing and let the books go."""
        for task in (self._refreshing, self._publishing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self._shared.give_up()
        await self._small.close()
        await self._large.close()

    def _age(self, held: HeldPeriod) -> float:
        return self.clock() - held.fetched_at

    async def _find(self) -> tuple[HeldPeriod, Forward | None]:
        """What to send, and why the caller has waited for it, if so."""
        held, asked_at = self.held, self.clock()
        if held is None:
            found = await self._youngest(None)
            return found, "miss" if self._renewed_at >= asked_at else None
        if self._age(held) < self._policy.ttl_s and not held.keeper.is_lost:
            return held, None
        known_at = held.fetched_at
        youngest = await self._youngest(held)
        is_newer = youngest.fetched_at > known_at and self._renewed_at >= asked_at
        return youngest, "stale" if is_newer else None

    async def _youngest(self, held: HeldPeriod | None) -> HeldPeriod:
        """What to send when nothing fresh is held; starts a refresh if none runs."""
        age_s = math.inf if held is None else self._age(held)
        covers_failure = self._policy.covers_failure(age_s)
        if held is not None and covers_failure and self.clock() < self._paused_until:
            return held
        refreshing = self._start_refresh()
        if held is not None and self._policy.state(age_s) == "revalidating":
            return held
        try:
            await asyncio.shield(refreshing)
        except Exception:
            held = self.held  # another process may have had an old one
            if held is not None and self._policy.covers_failure(self._age(held)):
                return held
            raise
        return self._in_force()

    def _in_force(self) -> HeldPeriod:
        if self.held is None:
            raise RuntimeError("a refresh has ended without a period")
        return self.held

    def _start_refresh(self, *, is_alone: bool = False) -> asyncio.Task[None]:
        """The refresh that runs, or a new one. It belongs to no caller."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._renew(is_alone=is_alone))
            self._refreshing.add_done_callback(_note_outcome)
        return self._refreshing

    async def _renew(self, *, is_alone: bool) -> None:
        """Take over what another process has fetched, or fetch and offer that."""
        if self._publishing is not None:
            await asyncio.wait([self._publishing])
        try:
            if not is_alone and not await self._is_our_turn():
                return
            async with self._filling:
                await self._fill()
                await self._refresh()
        except Exception as error:
            self._paused_until = self.clock() + self._pause_s
            failed = error if isinstance(error, RefreshFailed) else None
            await self._shared.give_up(failed)
            raise
        self._renewed_at = self.clock()
        self._publishing = asyncio.create_task(self._publish(self._in_force()))

    async def _is_our_turn(self) -> bool:
        """Whether to refresh; what others have is taken over, if it is any use."""
        held = self.held
        turn = await self._shared.turn(
            Wish(
                known=held.head if held else None,
                is_younger=lambda age_s: held is None or age_s < self._age(held),
                suffices=lambda age_s: self._policy.state(age_s) != "expired",
            )
        )
        if turn.generation is not None:
            self._adopt(turn.generation)
        return turn.is_ours

    def _adopt(self, generation: Generation) -> None:
        """Hold what another process has fetched; the books follow when asked."""
        head, priced = generation.head, generation.head.priced
        held, fetched_at = self.held, self.clock() - generation.age_s
        if held is not None and generation.answer is None:
            held.fetched_at, held.head = fetched_at, head
        else:
            self.held = _adopted(generation, LazyBookkeeper(self._books), fetched_at)
        if generation.age_s < self._policy.ttl_s:
            self._renewed_at = self.clock()
        metrics.period_held(
            priced.plan, priced.messages, priced.credits_total, generation.age_s
        )
        log.info(
            "cache.shared.adopted",
            plan=priced.plan,
            messages=priced.messages,
            credits_total=priced.credits_total,
            age_s=round(generation.age_s, 3),
        )

    async def _books(self) -> Bookkeeper:
        """The books of the period in force, out of what is shared or a refresh."""
        while True:
            async with self._filling:
                await self._fill()
                keeper = self._in_force().keeper
            if not isinstance(keeper, LazyBookkeeper):
                return keeper
            await asyncio.shield(self._start_refresh(is_alone=True))

    async def _fill(self) -> None:
        """Make books for an adopted period, if others still have what it takes."""
        held = self.held
        if held is None or held.head is None:
            return
        if not isinstance(held.keeper, LazyBookkeeper):
            return
        contents = await self._shared.contents(held.head)
        if contents is None:
            return
        keeper = self._keeper_of(contents.body)
        try:
            held.contents = await keeper.load(contents.body)
            all_priced = await keeper.call(
                Books.settle, contents.settled, self._plan, 0
            )
        except (msgspec.DecodeError, KeyError, BooksLost):
            return
        if all_priced[0].bill != held.head.priced.bill:
            return
        await keeper.call(Books.commit)
        held.settled, held.body = contents.settled, contents.packed
        held.keeper = keeper
        await self._clear_all_but(keeper)

    async def _publish(self, held: HeldPeriod) -> None:
        """Let other processes have what was fetched here."""
        offer = Offer(
            etag=held.etag,
            priced=held.priced[self._plan.id],
            answer=held.answers[self._plan.id, JSON],
            settled=held.settled,
            body=held.body,
            age_s=lambda: self._age(held),
        )
        held.head, held.body = await self._shared.publish(offer)

    @telemetry.in_span("usage.refresh")
    async def _refresh(self) -> None:
        started = self.clock()
        log.info("usage.refresh.started", plan=self._plan.id)
        try:
            with metrics.refreshing(self.clock):
                await self._update_in_time()
        except Exception as error:
            self._paused_until = self.clock() + self._pause_s
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
        held = self._in_force()
        priced = held.priced[self._plan.id]
        metrics.period_held(
            priced.plan, priced.messages, priced.credits_total, self._age(held)
        )
        log.info(
            "usage.refresh.finished",
            plan=priced.plan,
            messages=priced.messages,
            reports=len(held.settled.reports),
            missing_reports=held.settled.missing,
            credits_total=priced.credits_total,
            duration_s=self._since(started),
            reused=priced.reused,
        )

    async def _update_in_time(self) -> None:
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._update()
        except TimeoutError:
            raise DeadlineExceeded(f"not finished in {self._deadline_s} s") from None

    async def _update(self) -> None:
        """Fetch, settle, price, encode; what is held changes at the end, at once."""
        before, fetched_at = self.held, self.clock()
        fetched = await self._fetch(before)
        is_same = fetched is None
        if fetched is None:
            before = self._in_force()
            fetched = _Fetched(before.keeper, before.contents, before.body, before.etag)
        for report_id in fetched.contents.invalid_ids:
            log_invalid_id(report_id)
        settled = await self._reports.settle(fetched.contents.keys)
        if is_same and before is not None and settled == before.settled:
            before.fetched_at = fetched_at
            before.priced = {
                name: priced.all_reused() for name, priced in before.priced.items()
            }
            return
        if is_same:
            await fetched.keeper.call(Books.load_again)
        await self._replace(fetched, settled, fetched_at)

    async def _replace(
        self, fetched: "_Fetched", settled: Settled, fetched_at: float
    ) -> None:
        keeper = fetched.keeper
        all_priced = await keeper.call(
            Books.settle, settled, self._plan, self._most_told
        )
        for priced in all_priced:
            await log_prices(priced)
        held = HeldPeriod(
            keeper=keeper,
            contents=fetched.contents,
            settled=settled,
            etag=fetched.etag,
            fetched_at=fetched_at,
            priced={priced.plan: priced for priced in all_priced},
            body=fetched.body,
        )
        # Whoever asks the books is told their headers by what is held: both change
        # together, when all that takes time is done.
        body = await keeper.answer(self._plan, JSON, is_coming=True)
        headers = View(held, self._plan, self._policy.judge(0)).headers
        held.answers[self._plan.id, JSON] = await Answer.of(body, JSON, headers)
        await keeper.call(Books.commit)
        await self._sum_again(held)
        self.held = held
        await self._clear_all_but(keeper)

    async def _sum_again(self, held: HeldPeriod) -> None:
        """Have the sums ready that the period before was asked for."""
        for plan, method, args in self.held.sums if self.held else ():
            value = await held.keeper.call(method, plan, *args)
            held.sums[plan, method, args] = value

    async def _clear_all_but(self, keeper: Bookkeeper) -> None:
        for other in (self._small, self._large):
            if other is not keeper and not other.is_lost:
                await other.call(Books.clear)

    def _keeper_of(self, body: bytearray) -> Bookkeeper:
        return self._large if len(body) >= self._large_bytes else self._small

    async def _fetch(self, before: HeldPeriod | None) -> "_Fetched | None":
        """Upstream's messages, in the books; None where they are those before."""

        async def load(body: bytearray) -> tuple[Bookkeeper, Contents, bytearray]:
            keeper = self._keeper_of(body)
            return keeper, await keeper.load(body), body

        # What is not here has to be read again, even if upstream has nothing newer.
        etag = before.etag if before and _has_books(before) else None
        read: Reader[tuple[Bookkeeper, Contents, bytearray]] = load
        fetched = await self._messages.fetch(read, etag)
        if fetched.value is None:
            return None
        return _Fetched(*fetched.value, fetched.etag)

    async def _price(self, held: HeldPeriod, plan: Plan) -> None:
        """Price a held period under a plan that nobody asked for until now."""
        async with held.making:
            if plan.id in held.priced:
                return
            priced = await held.keeper.call(Books.tell, plan, self._most_told)
            await log_prices(priced)
            held.priced[plan.id] = priced

    def _since(self, started: float) -> float:
        return round(self.clock() - started, 6)


class _Fetched(NamedTuple):
    keeper: Bookkeeper
    contents: Contents
    body: bytearray | Packed | None
    etag: str | None


def _has_books(held: HeldPeriod) -> bool:
    return not isinstance(held.keeper, LazyBookkeeper) and not held.keeper.is_lost


def _adopted(
    generation: Generation, keeper: Bookkeeper, fetched_at: float
) -> HeldPeriod:
    head, answer = generation.head, generation.answer
    return HeldPeriod(
        keeper=keeper,
        contents=Contents(head.priced.messages, [], []),
        settled=Settled({}, set()),
        etag=head.etag,
        fetched_at=fetched_at,
        priced={head.priced.plan: head.priced},
        answers={(head.priced.plan, JSON): answer} if answer else {},
        head=head,
    )


def find_plan(name: str) -> Plan:
    """The plan of this name, with or without its version; else `UnknownPlan`."""
    for plan in PLANS.values():
        if name in {plan.name, plan.id}:
            return plan
    raise UnknownPlan(name, PLANS)


def _note_outcome(refresh: asyncio.Task[None]) -> None:
    """Take note of a failure, which may have no caller who waits for it."""
    if not refresh.cancelled():
        refresh.exception()
