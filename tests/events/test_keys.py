"""Keys: told apart by their digests, from a copy that is never older than it may be."""

import asyncio
import hashlib
import hmac
from typing import NoReturn
from unittest.mock import Mock

import pytest
from sqlalchemy import event as sqlalchemy_event

from service.events import keys as module
from service.events.keys import (
    SANDBOX_APPLICATION,
    SANDBOX_KEY,
    KeyNotFound,
    KeyRing,
    add_key,
    list_keys,
    revoke_keys,
    sandbox_key,
)
from service.settings import Storage
from service.storage.database import Database, open_database
from service.storage.errors import StorageUnavailable
from tests.clock import Clock

TTL_S = 1.0


def count_queries(database: Database) -> list[str]:
    """The statements that readers execute from now on."""
    seen: list[str] = []
    sqlalchemy_event.listen(
        database._reader.sync_engine,
        "before_cursor_execute",
        lambda *arguments: seen.append(arguments[2]),
    )
    return seen


async def test_only_the_digest_is_kept(database: Database) -> None:
    """A key is random, begins so that scanners know it, and is nowhere in the rows."""
    made = [await add_key(database, "shop") for _ in range(2)]
    kept = await list_keys(database)

    assert made[0] != made[1]
    assert all(text.startswith("cu_") and len(text) == 46 for text in made)
    digests = [hashlib.sha256(text.encode()).digest() for text in made]
    assert [key.digest for key in kept] == digests
    assert not [text for text in made if text in repr(kept)]


async def test_revocation_is_noticed_in_time(
    database: Database, storage: Storage
) -> None:
    """Another process revokes: for the time to live the key still lets in, then not."""
    clock = Clock()
    text = await add_key(database, "shop")
    ring = KeyRing(database, TTL_S, clock=clock)
    found = await ring.find(text)
    async with open_database(storage) as other:
        assert await revoke_keys(other, "shop") == 1

    assert found is not None
    assert found.application == "shop"
    assert await ring.find(text) is not None
    clock.pass_s(TTL_S)
    assert await ring.find(text) is None


async def test_unknown_keys_cost_no_query(database: Database) -> None:
    """However many are guessed, the keys are read once for each time to live."""
    clock = Clock()
    ring = KeyRing(database, TTL_S, clock=clock)
    queries = count_queries(database)
    for at in range(3):
        clock.pass_s(TTL_S if at else 0.0)
        guesses = (ring.find(f"cu_{guess}\udcff") for guess in range(500))
        assert set(await asyncio.gather(*guesses)) == {None}
    assert len([each for each in queries if "FROM keys" in each]) == 3


async def test_waiting_callers_share_a_failure(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is away is asked once by all who wait, and then again."""
    attempts = []

    async def fail(_database: Database) -> NoReturn:
        attempts.append(1)
        await asyncio.sleep(0)
        raise StorageUnavailable("away")

    text = await add_key(database, "shop")
    ring = KeyRing(database, TTL_S, clock=Clock())
    with monkeypatch.context() as patched:
        patched.setattr(module, "list_keys", fail)
        callers = (ring.find(text) for _ in range(50))
        asked = await asyncio.gather(*callers, return_exceptions=True)

    assert {(type(each), str(each)) for each in asked} == {(StorageUnavailable, "away")}
    assert len(attempts) == 1
    assert await ring.find(text) is not None


async def test_digests_are_compared_in_constant_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decides is `hmac.compare_digest`, on digests."""
    compare = Mock(side_effect=hmac.compare_digest)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    text = await add_key(database, "shop")
    digest = hashlib.sha256(text.encode()).digest()

    assert await KeyRing(database, TTL_S).find(text) is not None
    compare.assert_called_once_with(digest, digest)


async def test_revoking_by_name_and_by_id(database: Database) -> None:
    """An id revokes one key, a name all of an application, and none other."""
    for name in ("shop", "shop", "shop", "board"):
        await add_key(database, name)
    first = (await list_keys(database))[0]

    assert await revoke_keys(database, first.id) == 1
    assert await revoke_keys(database, "shop") == 2
    for gone in ("shop", first.id, "nobody"):
        with pytest.raises(KeyNotFound):
            await revoke_keys(database, gone)
    in_force = [key for key in await list_keys(database) if key.revoked_at is None]
    assert [key.application for key in in_force] == ["board"]


async def test_the_sandboxs_key_is_of_memory_only(database: Database) -> None:
    """The same database without the sandbox does not know the key."""
    with_sandbox = KeyRing(database, TTL_S, fixed=[sandbox_key()])
    found = await with_sandbox.find(SANDBOX_KEY)

    assert found is not None
    assert (found.application, found.can_read_all) == (SANDBOX_APPLICATION, False)
    assert await KeyRing(database, TTL_S).find(SANDBOX_KEY) is None
    assert await list_keys(database) == []


async def test_many_keys(database: Database) -> None:
    """Each of hundreds made at once is another, and finds its own application."""
    texts = await asyncio.gather(*(add_key(database, f"a{n}") for n in range(200)))
    ring = KeyRing(database, TTL_S)
    found = [await ring.find(text) for text in texts]
    assert [key.application for key in found if key] == [f"a{n}" for n in range(200)]
