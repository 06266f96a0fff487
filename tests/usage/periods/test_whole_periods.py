"""Loads of whole kept periods: nothing is left of one that no client waits for."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.usage.periods.handlers import KEPT
from service.usage.periods.reading.reader import NO_LANES
from service.usage.snapshots.worker import InlineWorker
from tests.conftest import Client, message
from tests.usage.periods.conftest import Keep

Until = Callable[[Callable[[], bool]], Awaitable[None]]


async def test_an_abandoned_load_leaves_no_columns(
    in_file: Client, keep: Keep, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker continues when the client leaves, and drops what it has then."""
    await keep(in_file, [message(1, timestamp="2024-04-29")])
    app = in_file.app
    assert app is not None
    adopting, may_end, workers = asyncio.Event(), asyncio.Event(), []
    original = InlineWorker.adopt

    async def adopt(self: InlineWorker, *arguments: object, **named: object) -> None:
        workers.append(self)
        adopting.set()
        await may_end.wait()
        await original(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(InlineWorker, "adopt", adopt)
    kept = app[KEPT]
    period = await kept.find("2024-04-29")
    load = kept.whole.snapshot(period, NO_LANES.whole)
    client = asyncio.create_task(load)
    await adopting.wait()
    client.cancel()
    may_end.set()
    snapshot = await kept.whole.snapshot(period, NO_LANES.whole)
    await until(lambda: not workers[0].has(snapshot.number - 1))
    assert workers[0].has(snapshot.number)
