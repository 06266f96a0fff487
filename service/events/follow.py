"""Requests of consumers for the feed: what they get, after a wait if requested."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final, NamedTuple

from service.events.feed import Chunk, Feed, Page, read_lines, read_rows
from service.events.feed_statements import Place
from service.events.statements import EventFilter
from service.events.waiting import Waits
from service.storage.database import Database
from service.storage.maintenance import in_background, repeat_logged

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
PARQUET: Final = "application/vnd.apache.parquet"

MAX_STREAMS: Final = 8
"""Pages of several chunks that are sent at once; further pages end after one chunk."""
READS: Final = 4
"""Pages that are read at once for requests that have waited."""
LOOK_S: Final = 5.0
"""Interval of looks at the watermark of PostgreSQL."""
SCAN_S: Final = 1.0
"""Time for which a request that does not wait looks for events that match."""

_READERS: Final[dict[str, Any]] = {NDJSON: read_lines, PARQUET: read_rows}


class Request(NamedTuple):
    """A request of a consumer."""

    after: Place
    event_filter: EventFilter
    limit: int
    media_type: str


class Part(NamedTuple):
    """A page and its first chunk: events, the bytes of lines, or rows."""

    page: Page
    content: Any
    end: Place

    @property
    def is_whole(self) -> bool:
        """True if the chunk is the whole page."""
        return self.end == self.page.range.until


class Follower:
    """Answers requests for the feed."""

    def __init__(self, feed: Feed) -> None:
        self.waits = Waits(feed)
        self._feed = feed
        self._streams = 0
        self._reads = asyncio.Semaphore(READS)
        self._shared: dict[Request, asyncio.Task[Part]] = {}

    async def read(self, request: Request) -> Part:
        """Return the first part that has events, or an empty one.

        Raises `CursorAhead` and `StorageError`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SCAN_S
        while True:
            part = await self._read(request)
            if part.content or part.end == request.after or loop.time() > deadline:
                return part
            request = request._replace(after=part.end)

    async def wait(self, request: Request, limit_s: float) -> Part:
        """Return the first part that has events, or an empty one after `limit_s`.

        Raises `CursorAhead` and `StorageError`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while True:
            part = await self._read_shared(request)
            left_s = deadline - loop.time()
            if part.content or left_s <= 0:
                return part
            if part.end != request.after:
                request = request._replace(after=part.end)
                continue
            end = await self.waits.wait(
                request.event_filter, part.page.watermark, left_s
            )
            if end != "events":
                return part

    @contextmanager
    def streaming(self) -> Iterator[bool]:
        """Take a place for a stream; yields False if there is none."""
        if self._streams >= MAX_STREAMS:
            yield False
            return
        self._streams += 1
        try:
            yield True
        finally:
            self._streams -= 1

    def rest(self, request: Request, part: Part) -> AsyncIterator[Chunk[Any]]:
        """Yield the chunks of a page after its first part."""
        page = part.page
        page = page._replace(range=page.range._replace(after=part.end))
        reader = _READERS[request.media_type]
        return self._feed.chunks(page, request.event_filter, reader)

    async def _read(self, request: Request) -> Part:
        after, event_filter, limit, media_type = request
        page = await self._feed.find_page(after, event_filter, limit)
        if page.is_empty:
            return Part(page, None, after)
        if media_type == JSON:
            return Part(page, *await self._feed.events(page, event_filter, limit))
        chunks = self._feed.chunks(page, event_filter, _READERS[media_type])
        return Part(page, *await anext(chunks))

    async def _read_shared(self, request: Request) -> Part:
        """Read once for all requests that ask for the same at the same time."""
        task = self._shared.get(request)
        if task is None:
            task = asyncio.create_task(self._read_in_turn(request))
            task.add_done_callback(_retrieve)
            self._shared[request] = task
        # A client that leaves must not cancel the read of the others.
        return await asyncio.shield(task)

    async def _read_in_turn(self, request: Request) -> Part:
        try:
            async with self._reads:
                return await self._read(request)
        finally:
            del self._shared[request]


@asynccontextmanager
async def open_follower(database: Database) -> AsyncIterator[Follower]:
    """Open the feed of a database; all waits end with the context."""
    feed = Feed(database)
    follower = Follower(feed)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(follower.waits.close)
        if not database.is_sqlite:
            # For the metric, and so that the first request needs no earlier look.
            looks = repeat_logged("events.feed_failed", feed.look, LOOK_S)
            await stack.enter_async_context(in_background(looks))
        yield follower


def _retrieve(task: asyncio.Task[Part]) -> None:
    """Take the exception of a task, whose requests may all have left."""
    if not task.cancelled():
        task.exception()
