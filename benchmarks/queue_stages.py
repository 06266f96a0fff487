"""Processor time of each stage of an event's way through the queue.

    python -m benchmarks.queue_stages

It calls what the collector and the writer call, in one process without servers, and
prints microseconds of CPU time for each event in requests of 500. Unlike the clock,
processor time hardly depends on what else runs.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.load.senders import Plan, make_requests
from service.events.model import Event, EventFailure
from service.events.parsing import EventParser
from service.events.queue.message import QueuedRequest, decode, encode
from service.events.receipts import receipt_before_storage
from service.events.schemas import load_types, types_folder
from service.settings import load

BATCH: Final = 500
REQUESTS: Final = 40
ROUNDS: Final = 9

Items = list[Event | EventFailure]


def main() -> None:
    """Measure all stages, and print a table."""
    table = Table("stage", "µs of CPU for each event", box=None)
    for name, us in measure():
        table.add_row(name, f"{us:.2f}")
    Console().print(table)


def measure() -> Iterator[tuple[str, float]]:
    """Yield the name of each stage and its median CPU time for each event, in µs."""
    settings = load().settings.events
    types = load_types(settings, types_folder(settings))
    parser = EventParser(types, settings.future_skew_s)
    requests = make_requests(Plan(0, "key", REQUESTS, BATCH, 1))
    bodies = [each.partition(b"\r\n\r\n")[2] for each in requests]

    def parse(body: bytes) -> Items:
        return parser.parse_body(body, "application/json", settings.max_events, "shop")

    parsed = list(map(parse, bodies))
    receipts = list(map(receipt_before_storage, parsed))
    messages = [encode(QueuedRequest("shop", each)) for each in parsed]
    size = len(messages[0])
    yield "parse and validate the body", _us(parse, bodies)
    yield "make the receipt", _us(receipt_before_storage, parsed)
    yield "encode the receipt", _us(msgspec.json.encode, receipts)
    yield (
        f"encode the message, {size / BATCH:.0f} bytes an event",
        _us(lambda items: encode(QueuedRequest("shop", items)), parsed),
    )
    yield "decode the message, in the writer", _us(decode, messages)


def _us(work: Callable[..., object], inputs: Sequence[object]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for each in inputs:
            work(each)
        rounds.append(time.process_time() - started)
    return statistics.median(rounds) / len(inputs) / BATCH * 1e6


if __name__ == "__main__":
    main()
