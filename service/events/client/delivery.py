"""Delivery of a batch: requests with retries, and the result of each event."""

import random
import sys
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

import aiohttp
import msgspec
import structlog
from aiohttp_retry import RetryClient, RetryOptionsBase
from yarl import URL

from service.events.client.buffer import BufferedEvent
from service.events.model import EventError
from service.upstream.retries import parse_retry_after

FIRST_WAIT_S: Final = 0.1
MAX_WAIT_S: Final = 10.0
MAX_RETRY_AFTER_S: Final = 60.0
"""Upper bound of a `Retry-After` that is honoured."""
RETRIED_STATUSES: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
"""In addition to all server errors: 500 and above."""
RETRIED_ERRORS: Final = {aiohttp.ClientError, TimeoutError, OSError}
SPLIT_STATUSES: Final = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}
"""Errors that a single event of the batch may have caused."""
DELIVERED: Final = {"accepted", "duplicate"}

log = structlog.get_logger()


class Undelivered(NamedTuple):
    """An event that the service has not confirmed as accepted, with the reasons.

    `event` is its JSON text. The service may have stored it nevertheless; sending it
    again with this id does not duplicate it.
    """

    id: str
    event: bytes
    errors: tuple[EventError, ...]


class BatchResponse(NamedTuple):
    """The final response to a batch; the body is empty unless the status is 202."""

    status: int
    body: bytes


class _EventReceipt(msgspec.Struct, frozen=True):
    status: str
    errors: tuple[EventError, ...] = ()


class _BatchReceipt(msgspec.Struct, frozen=True):
    results: list[_EventReceipt]


async def post_batch(
    client: RetryClient, url: URL, batch: Sequence[BufferedEvent]
) -> BatchResponse:
    """Send a batch until the service gives a final response."""
    body = b"\n".join(each.event for each in batch)
    # A redirect is not followed: the request would become a GET, or another server
    # would receive the key.
    posting = client.post(url, data=body, allow_redirects=False)
    async with posting as response:
        is_receipt = response.status == HTTPStatus.ACCEPTED
        return BatchResponse(
            response.status, await response.read() if is_receipt else b""
        )


def undelivered_of(
    batch: Sequence[BufferedEvent], response: BatchResponse
) -> list[Undelivered]:
    """Return the events of a batch that the service did not accept."""
    if response.status != HTTPStatus.ACCEPTED:
        reason = f"the service answers {response.status}"
        return give_up(batch, f"http_{response.status}", reason)
    results = _parse_receipt(response.body)
    if len(results) != len(batch):
        return give_up(batch, "unknown_answer", "the answer is no receipt for it")
    return [
        Undelivered(each.id, each.event, result.errors)
        for each, result in zip(batch, results, strict=True)
        if result.status not in DELIVERED
    ]


def give_up(
    events: Sequence[BufferedEvent], code: str, message: str
) -> list[Undelivered]:
    """Return all the events as undelivered, for the same reason."""
    error = EventError(code, "", message)
    return [Undelivered(each.id, each.event, (error,)) for each in events]


class RetryPolicy(RetryOptionsBase):
    """Retries a batch until there is a final response, with exponential backoff.

    The wait is random (full jitter). A longer `Retry-After` takes precedence.
    """

    def __init__(self) -> None:
        super().__init__(
            attempts=sys.maxsize,  # closing the client ends it
            statuses=RETRIED_STATUSES,
            exceptions=RETRIED_ERRORS,
            methods={"POST"},  # the ids of the events make it idempotent
            retry_all_server_errors=True,
            evaluate_response_callback=_is_complete,
        )

    def get_timeout(
        self, attempt: int, response: aiohttp.ClientResponse | None = None
    ) -> float:
        """Return the seconds to wait after try number `attempt`, counted from 1."""
        # Tries have no limit, so without one for the exponent the float would overflow.
        bound_s = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt - 1, 20))
        wait_s = random.uniform(0, bound_s)  # noqa: S311
        reason = "no answer"
        if response is not None:
            # aiohttp-retry does not release it, which would leak the connection.
            response.release()
            reason = str(response.status)
            requested_s = parse_retry_after(response.headers.get("Retry-After")) or 0.0
            wait_s = max(wait_s, min(requested_s, MAX_RETRY_AFTER_S))
        log.warning("events.delayed", wait_s=round(wait_s, 4), reason=reason)
        return wait_s


async def _is_complete(response: aiohttp.ClientResponse) -> bool:
    """Return False for a receipt that is cut off: it is retried like no response."""
    if response.status != HTTPStatus.ACCEPTED:
        return True
    body = await response.read()
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except ValueError:
        return False
    except RecursionError:
        pass  # complete, although nested too deeply
    return True


def _parse_receipt(body: bytes) -> list[_EventReceipt]:
    """Return the result of each event; an empty list if the body is no receipt."""
    try:
        return msgspec.json.decode(body, type=_BatchReceipt).results
    except (ValueError, RecursionError):
        return []
