"""The client of asyncio applications: a task delivers the events, with aiohttp."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import aiohttp

from copilot_usage_client.base import BaseClient
from copilot_usage_client.client import FAILED_PAUSE_S
from copilot_usage_client.transport import MAX_ANSWER_BYTES, Answer, NoAnswer

CHUNK_BYTES: Final = 64 * 1024

log = logging.getLogger("copilot_usage_client")


class AsyncClient(BaseClient):
    """Sends events of an asyncio application; has the arguments of `Client`.

    Use it as an asynchronous context manager. Work with files runs in threads.
    `on_error` runs in the event loop, or in the thread that called `track`.
    """

    async def __aenter__(self) -> AsyncClient:
        self._start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until all events are delivered, for at most `timeout` seconds.

        Returns whether they are, the files of former processes included.
        """
        if self._is_closed:
            return self._outbox.is_empty()
        self._start()
        self._wanted += 1
        done = asyncio.get_running_loop().create_future()
        waiting = (self._wanted, done)
        self._flushes.append(waiting)
        self._delivery.hurries = True
        self._delivery.hurry()
        self._wake()
        try:
            await asyncio.wait([done], timeout=timeout)
        finally:
            self._flushes.remove(waiting)
            self._delivery.hurries = bool(self._flushes)
        return done.done()

    async def close(self, timeout: float | None = None) -> bool:
        """Deliver for at most `timeout` seconds; keep the rest in files.

        The default is `close_timeout_s`. Returns whether everything was delivered.
        Events that find no room are reported.
        """
        if self._is_closed:
            return self._outbox.is_empty()
        try:
            return await self.flush(self._bound(timeout))
        finally:
            self._end()
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])

    # --- the task ---------------------------------------------------------------------

    def _begin(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._wanted = 0
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []
        super()._begin()

    def _start(self) -> None:
        if self._is_started:
            return
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # events wait until a loop runs
        self._is_started = True
        self._task = self._loop.create_task(self._run())

    def _wake(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._woken.set)

    async def _run(self) -> None:
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._options.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            try:
                while not self._is_closed:
                    await self._work_on(session)
            finally:
                self._stop()

    def _stop(self) -> None:
        """Let another event loop go on, when this one has ended."""
        self._is_started = False
        with self._delivery_lock:
            self._delivery.give_back()

    async def _work_on(self, session: aiohttp.ClientSession) -> None:
        try:
            await self._work(session)
        except Exception:
            # A defect must not end the delivery for the life of the process.
            log.exception("the delivery failed, and goes on")
            await asyncio.sleep(FAILED_PAUSE_S)

    async def _work(self, session: aiohttp.ClientSession) -> None:
        wanted = self._wanted
        request = await asyncio.to_thread(self._next_request)
        if request is not None:
            outcome = await self._post(session, *request)
            await asyncio.to_thread(self._handle, outcome)
            self._report_problems()
            return
        await self._note_flushed(wanted)
        self._report_problems()
        woken = asyncio.ensure_future(self._woken.wait())
        try:
            # Before Python 3.12, `asyncio.wait_for` may swallow a cancellation.
            await asyncio.wait([woken], timeout=self._delivery.pause_s())
        finally:
            woken.cancel()
        self._woken.clear()

    async def _post(
        self, session: aiohttp.ClientSession, body: bytes, headers: dict[str, str]
    ) -> Answer | NoAnswer:
        context = self._options.ssl_context
        # A redirect is not followed: another server would receive the key.
        posting = session.post(
            self._target.url,
            data=body,
            headers=headers,
            allow_redirects=False,
            ssl=True if context is None else context,
        )
        try:
            async with posting as response:
                answered = bytearray()
                async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                    answered += chunk
                    if len(answered) > MAX_ANSWER_BYTES:
                        break
                retry_after = response.headers.get("Retry-After")
                return Answer(response.status, bytes(answered), retry_after)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            return NoAnswer(f"{type(error).__name__}: {error}")

    async def _note_flushed(self, wanted: int) -> None:
        """End the calls of `flush` that were made before nothing was left."""
        if not self._flushes or not await asyncio.to_thread(self._outbox.is_empty):
            return
        self._report_problems()
        for number, done in self._flushes:
            if number <= wanted and not done.done():
                done.set_result(None)

    # --- the process ------------------------------------------------------------------

    def _finish(self) -> None:
        """Keep the events in files: the event loop has ended."""
        if not self._is_closed:
            self._end()
