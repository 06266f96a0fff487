"""One attempt to deliver a firing to a webhook: signed, bounded, without redirects.

A user chooses the URL. So that the service does not become a way into its own network,
only https and public addresses are accepted, unless `webhooks.allow_private`.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final

import aiohttp
from yarl import URL

from service.instants import now_us
from service.settings import WebhooksSettings
from service.upstream.client import USER_AGENT, translated
from service.upstream.errors import AddressRefused, BadRequestUrl, UpstreamError
from service.upstream.public_addresses import PublicResolver, open_public
from service.upstream.retries import retry_after_of
from service.usage.budgets import metrics
from service.usage.budgets.outbox import Claimed, Outcome
from service.usage.budgets.signing import signed_headers
from service.usage.budgets.tables import DELIVERED, FAILED, PENDING

MAX_HEADER_BYTES: Final = 8_192
MAX_BODY_BYTES: Final = 16_384
BODY_S: Final = 1.0
HEADERS: Final = {
    "Content-Type": "application/json",
    "User-Agent": USER_AGENT,
    "Accept-Encoding": "identity",
}


class WebhookClient:
    """Sends firings to webhooks; `open_webhooks` creates and closes it."""

    def __init__(
        self, settings: WebhooksSettings, session: aiohttp.ClientSession
    ) -> None:
        self._settings = settings
        self._session = session

    async def deliver(self, claimed: Claimed) -> Outcome:
        """Make one attempt; return its outcome, whatever the receiver does."""
        started = time.perf_counter()
        metrics.attempt_began()
        try:
            with translated():
                async with asyncio.timeout(self._settings.timeout_s):
                    return await self._post(claimed)
        except UpstreamError as error:
            return Outcome(_next_state(claimed), error=error.error_type)
        finally:
            metrics.attempt_ended(time.perf_counter() - started)

    async def _post(self, claimed: Claimed) -> Outcome:
        assert claimed.url is not None and claimed.secret is not None  # noqa: S101, PT018
        url = self._checked(claimed.url)
        signature = signed_headers(
            claimed.secret, claimed.id, now_us(), claimed.payload
        )
        async with self._session.post(
            url,
            data=claimed.payload.encode(),
            headers={**HEADERS, **signature},
            allow_redirects=False,
            middlewares=(_send_once,),
        ) as response:
            await _skip_body(response)
            return _judge(claimed, response)

    def _checked(self, text: str) -> URL:
        """Return a URL; raises `AddressRefused` and `BadRequestUrl`.

        The setting may have changed since the URL was stored.
        """
        try:
            url = URL(text)
        except ValueError as error:
            raise BadRequestUrl(str(error)) from error
        if url.scheme != "https" and not self._settings.allow_private:
            raise AddressRefused("the URL is not https")
        return url


async def _send_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request as a middleware, whose errors aiohttp does not retry."""
    with translated():
        return await send(request)


async def _skip_body(response: aiohttp.ClientResponse) -> None:
    """Read the begin of a body, so that a receiver can send a short one to its end."""
    # It has no meaning, and may never end.
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(BODY_S):
            await response.content.read(MAX_BODY_BYTES)
    response.close()


def _judge(claimed: Claimed, response: aiohttp.ClientResponse) -> Outcome:
    status = response.status
    if 200 <= status < 300:
        return Outcome(DELIVERED, status)
    if status == HTTPStatus.GONE:
        return Outcome(FAILED, status, "the receiver is gone", disables=True)
    return Outcome(
        _next_state(claimed), status, retry_after_s=retry_after_of(response.headers)
    )


def _next_state(claimed: Claimed) -> str:
    return FAILED if claimed.attempt >= claimed.max_attempts else PENDING


@asynccontextmanager
async def open_webhooks(settings: WebhooksSettings) -> AsyncIterator[WebhookClient]:
    """Open a client that uses each connection once, and so checks each address."""
    connector = aiohttp.TCPConnector(
        resolver=PublicResolver(allow_private=settings.allow_private),
        socket_factory=None if settings.allow_private else open_public,
        use_dns_cache=False,
        force_close=True,
        limit=0,  # the deliverer limits the attempts
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None),  # each attempt has its own
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    ) as session:
        yield WebhookClient(settings, session)
