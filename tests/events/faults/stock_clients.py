"""Stock clients, each in a process of its own: `NAME URL KEY` sends 1,000 events.

Half of them are handed over at once, and the others after a line of standard input. The
process ends with status 0 if its client has reported no error.
"""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final

import requests
from cloudevents.core.bindings.http import (
    HTTPMessage,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from rudderstack.analytics import client as rudderstack
from segment.analytics import client as segment

EVENTS: Final = 1_000
SIZE: Final = 50
"""Events of one request, where the client leaves this to its application."""
THREADS: Final = 8
AGAIN_S: Final = 0.05
TIME: Final = datetime(2021, 1, 1, 9, 15, 27, 243_860, UTC)

Errors = list[object]


def numbers() -> Iterator[int]:
    """Yield the numbers of the events; wait for a line in the middle."""
    yield from range(EVENTS // 2)
    sys.stdin.readline()
    yield from range(EVENTS // 2, EVENTS)


def send_by_segment(url: str, key: str, errors: Errors) -> None:
    """Send by the client of Segment, compressed."""
    client = segment.Client(
        key, host=url, gzip=True, on_error=lambda e, _: errors.append(e)
    )
    _track(client)


def send_by_rudderstack(url: str, key: str, errors: Errors) -> None:
    """Send by the client of RudderStack, which compresses by itself."""
    client = rudderstack.Client(
        key, host=url, on_error=lambda error, _: errors.append(error)
    )
    _track(client)


def _track(client: Any) -> None:
    for number in numbers():
        is_queued, _ = client.track(
            f"user {number % 3}",
            "Order Completed",
            {"number": number},
            timestamp=TIME,
            message_id=str(number),
        )
        assert is_queued
    client.shutdown()


def send_single(url: str, key: str, _errors: Errors) -> None:
    """Send CloudEvents one by one, in the binary and the structured content mode."""
    modes = to_binary_event, to_structured_event

    def send(number: int) -> None:
        _post(f"{url}/events", key, modes[number % 2](_cloudevent(number)))

    with ThreadPoolExecutor(THREADS) as threads:
        for each in [threads.submit(send, number) for number in numbers()]:
            each.result()


def send_batched(url: str, key: str, _errors: Errors) -> None:
    """Send CloudEvents in the batched content mode."""
    _send_batches(f"{url}/events", key)


def send_metered(url: str, key: str, _errors: Errors) -> None:
    """Send CloudEvents to OpenMeter's ingest."""
    _send_batches(f"{url}/api/v1/events", key)


def _send_batches(url: str, key: str) -> None:
    # The SDK writes single events only.
    headers = {"content-type": "application/cloudevents-batch+json"}
    group: list[bytes] = []
    for number in numbers():
        group.append(JSONFormat().write(_cloudevent(number)))
        if len(group) == SIZE:
            _post(url, key, HTTPMessage(headers, b"[" + b",".join(group) + b"]"))
            group = []


def _cloudevent(number: int) -> Any:
    attributes = {
        "id": str(number),
        "source": "/shop",
        "type": "order.completed",
        "subject": f"user {number % 3}",
        "time": TIME,
        "datacontenttype": "application/json",
    }
    return CloudEvent(attributes, {"number": number})


def _post(url: str, key: str, message: Any) -> None:
    """Send a message until it is accepted; the SDK leaves this to its application."""
    headers = {**message.headers, "Authorization": f"Bearer {key}"}
    while not _is_accepted(url, message.body, headers):
        time.sleep(AGAIN_S)


def _is_accepted(url: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        answer = requests.post(url, data=body, headers=headers, timeout=60)
    except requests.ConnectionError:
        return False
    if answer.status_code >= 500:
        return False
    answer.raise_for_status()
    return True


SENDERS: Final[dict[str, Callable[[str, str, Errors], None]]] = {
    "segment": send_by_segment,
    "rudderstack": send_by_rudderstack,
    "cloudevents": send_single,
    "cloudevents-batched": send_batched,
    "openmeter": send_metered,
}


def main(name: str, url: str, key: str) -> None:
    """Send all events; exit with the errors that the client has reported."""
    errors: Errors = []
    SENDERS[name](url, key, errors)
    if errors:
        sys.exit(str(errors))


if __name__ == "__main__":
    main(*sys.argv[1:])
