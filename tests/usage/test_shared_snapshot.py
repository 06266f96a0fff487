"""Shared snapshots: their parts, in Redis and in the process that adopts them."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
import redis
import redis.exceptions
from aiohttp import ClientSession
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.storage.redis_blobs import BlobContent, Blobs
from service.storage.redis_store import RedisStore, seal
from service.usage import shared_snapshot
from service.usage.handlers import SNAPSHOTS
from service.usage.shared_store import namespace_of
from tests.redis_servers import RedisDouble, RedisServer, SharedRedis
from tests.usage.conftest import (
    MESSAGES,
    PATHS,
    Client,
    Serve,
    Until,
    bodies,
    logged,
    published,
    put_manifest,
    services,
)


def spoil(
    shared: SharedRedis, kind: str, spoiled: Callable[[str, bytes], bytes]
) -> None:
    """Change every value whose key has this word."""
    chosen = {k: v for k, v in shared.values().items() if kind in k.split(":")}
    assert chosen
    for key, value in chosen.items():
        shared.put(key, spoiled(key, value))


SPOILED: Final[dict[str, Callable[[str, bytes], bytes]]] = {
    "empty": lambda _key, _value: b"",
    "foreign": lambda _key, _value: b"something else",
    "cut": lambda _key, value: value[:-1],
    "one bit": lambda _key, value: value[:-1] + bytes([value[-1] ^ 1]),
    "displaced": lambda _key, value: seal("another key", value[16:]),
    "sealed nonsense": lambda key, _value: seal(key, b"\xc1"),
    "a report's nonsense": lambda _key, _value: seal("7", b"\xc1"),
    "another form": lambda key, _value: seal(key, msgspec.msgpack.encode({"id": 1})),
}


@pytest.mark.parametrize("kind", ["manifest", "part", "report"])
@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED)
async def test_a_broken_value_is_not_used(
    *,
    shared: SharedRedis,
    serve: Serve,
    period: RunningSandbox,
    until: Until,
    log_entries: list[EventDict],
    kind: str,
    spoiled: Callable[[str, bytes], bytes],
) -> None:
    """A broken value is ignored, logged once, and replaced."""
    first = await serve(shared.url)
    expected = await bodies(first, *PATHS)
    await published(first, until)
    if kind == "report":
        spoil(shared, "manifest", SPOILED["empty"])
    spoil(shared, kind, spoiled)

    other = await serve(shared.url)
    assert await bodies(other, *PATHS) == expected
    await published(other, until)
    third = await serve(shared.url)
    assert await bodies(third, *PATHS) == expected

    assert period.sandbox.calls[MESSAGES] == 2
    assert len(logged(log_entries, "ignored")) == 1


@pytest.mark.parametrize("part", ["reports", "answer", "columns"])
async def test_a_sound_part_may_have_the_wrong_content(
    shared: SharedRedis, serve: Serve, period: RunningSandbox, until: Until, part: str
) -> None:
    """A part with a valid digest and other content is fetched again."""
    first = await serve(shared.url)
    expected = await bodies(first, *PATHS)
    manifest = await published(first, until)
    packed = BlobContent.of(msgspec.msgpack.encode([{}]))
    store = RedisStore(shared.url, namespace_of(serve.settings(shared.url)))
    await Blobs(store, 60.0).store(packed)
    await store.close()
    wrong: Any = {"zstd": packed.blob} if part == "answer" else packed.blob
    put_manifest(shared, msgspec.structs.replace(manifest, **{part: wrong}))
    other = await serve(shared.url)

    assert await bodies(other, *PATHS) == expected
    assert period.sandbox.calls[MESSAGES] == 2


async def test_a_period_too_large_is_not_shared(
    double: RedisDouble,
    serve: Serve,
    log_entries: list[EventDict],
    monkeypatch: pytest.MonkeyPatch,
    until: Until,
) -> None:
    """The period is served, and a log line says once that it is not shared."""
    monkeypatch.setattr(shared_snapshot, "MAX_BLOB_BYTES", 10)
    service = await serve("redis://a.test", cache={"ttl_s": 0.0})
    for _ in range(2):
        assert (await service.get("/usage")).status == 200
    await until(lambda: len(logged(log_entries, "refused")) == 1)

    assert not [key for key in double.values if "part" in key]


@pytest.mark.parametrize(
    "report_id", ["1" * 30, "-" + "1" * 30, str(2**63), '"\\ud83d"', '"a"', "7"]
)
async def test_a_report_with_any_id_is_shared(
    shared: SharedRedis,
    serve: Serve,
    period: RunningSandbox,
    until: Until,
    report_id: str,
) -> None:
    """Also with an id that MessagePack cannot encode."""
    body = f'{{"id":{report_id},"name":"Short Lease Report","credit_cost":61}}'
    period.sandbox.set_report(7, body.encode())
    services = []
    for _ in range(2):
        services.append(await serve(shared.url))
        assert (await services[-1].get("/usage/0")).status == 200
        await published(services[-1], until)
    answers = [await bodies(each, *PATHS) for each in services]
    assert answers[0] == answers[1]
    assert period.sandbox.calls["/reports/7"] == 1


async def test_a_month_is_known_in_every_process(
    shared: SharedRedis, serve: Serve, period: RunningSandbox, until: Until
) -> None:
    """So each knows whether the upstream lists messages of earlier months."""
    snapshots = []
    for _ in range(2):
        service = await serve(shared.url, periods={"boundary": "calendar"})
        assert (await service.get("/usage")).status == 200
        await published(service, until)
        cached = service.app[SNAPSHOTS].current
        assert cached is not None
        snapshots.append(cached.snapshot)
    first, adopted = snapshots
    assert period.sandbox.calls[MESSAGES] == 1
    assert first.span is not None
    # All messages are of a year that is over.
    assert first.earlier > 0
    assert (adopted.span, adopted.earlier) == (first.span, first.earlier)


async def test_answers_come_in_every_coding(
    shared: SharedRedis, serve: Serve, until: Until
) -> None:
    """An adopted answer has the codings and ETags of the first service."""
    first = await serve(shared.url)
    await first.get("/usage")
    await published(first, until)
    other = await serve(shared.url)

    async with ClientSession(auto_decompress=False) as session:

        async def ask(service: Client, coding: str) -> tuple[bytes, str, str | None]:
            url, headers = service.make_url("/usage"), {"Accept-Encoding": coding}
            async with session.get(url, headers=headers) as answer:
                sent = answer.headers.get("Content-Encoding")
                return await answer.read(), answer.headers["ETag"], sent

        for coding, sent in (("identity", None), ("gzip", "gzip"), ("zstd", "zstd")):
            ours, theirs = [await ask(each, coding) for each in (other, first)]
            assert ours == theirs
            assert ours[2] == sent


@services
async def test_everything_expires(
    server: RedisServer, serve: Serve, until: Until
) -> None:
    """Every key has an expiry, and the lock is released after the refresh."""
    service = await serve(server.url)
    await service.get("/usage")
    await published(service, until)

    with redis.Redis.from_url(server.url) as client:
        kept = {key.decode(): client.pttl(key) for key in client.scan_iter()}
    assert kept
    assert all(0 < left_ms <= 600_000 for left_ms in kept.values())
    assert not [key for key in kept if key.endswith(":lock")]
