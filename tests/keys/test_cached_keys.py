"""API keys: digests in the database, and a cache with a maximum age."""

import asyncio
import hashlib
import hmac
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest
from sqlalchemy import event as sqlalchemy_event

from service.keys import cached_keys as module
from service.keys.cached_keys import ApiKeys
from service.keys.handlers import API_KEYS
from service.keys.store import (
    SANDBOX_APPLICATION,
    SANDBOX_KEY,
    add_key,
    list_keys,
    revoke_keys,
    sandbox_key,
)
from service.settings import SCOPES, StorageSettings
from service.storage.database import Database, open_database
from service.storage.errors import StorageUnavailable
from service.storage.uses import Use
from tests.clock import Clock, LoopTime
from tests.conftest import MakeClient

TTL_S = 1.0
GRACE_S = 100.0

Open = Callable[..., ApiKeys]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
async def opened(database: Database) -> AsyncIterator[Open]:
    """A factory of copies of the keys, which are closed at the end."""
    async with AsyncExitStack() as stack:

        def make(**more: Any) -> ApiKeys:
            api_keys = ApiKeys(database, TTL_S, GRACE_S, **more)
            stack.push_async_callback(api_keys.close)
            return api_keys

        yield make


def count_queries(database: Database) -> list[str]:
    """Return a list that collects the statements of readers."""
    seen: list[str] = []
    sqlalchemy_event.listen(
        database._engines.readers[Use.KEYS].sync_engine,
        "before_cursor_execute",
        lambda *arguments: seen.append(arguments[2]),
    )
    return seen


def reads(statements: list[str]) -> list[str]:
    """Return the statements that read keys."""
    return [each for each in statements if "FROM keys" in each]


async def test_only_the_digest_is_stored(database: Database) -> None:
    """A key is random, has the known prefix, and is not in the rows."""
    made = [await add_key(database, "shop") for _ in range(2)]
    stored = await list_keys(database)

    assert made[0] != made[1]
    assert all(text.startswith("cu_") and len(text) == 46 for text in made)
    digests = [hashlib.sha256(text.encode()).digest() for text in made]
    assert [key.digest for key in stored] == digests
    assert not [text for text in made if text in repr(stored)]


async def test_keys_are_read_without_a_request(
    client: MakeClient, tmp_path: Path, until: Until
) -> None:
    """So a worker that was idle until an outage lets operators and senders in."""
    stored = {"url": f"sqlite+aiosqlite:///{tmp_path}/events.db"}
    service = await client(storage=stored, events={"enabled": True})
    assert service.app is not None
    keys = service.app[API_KEYS]

    await until(lambda: keys.age_s() < math.inf)


async def test_a_revocation_takes_effect_after_the_ttl(
    opened: Open,
    database: Database,
    storage: StorageSettings,
    until: Until,
    loop_time: LoopTime,
) -> None:
    """A key revoked by another process is valid until the keys are read again."""
    text = await add_key(database, "shop")
    clock = Clock()
    api_keys = opened(clock=clock)
    found = await api_keys.find(text)
    async with open_database(storage) as other:
        assert await revoke_keys(other, "shop") == 1

    assert found is not None
    assert found.application == "shop"
    assert await api_keys.find(text) is not None
    clock.pass_s(TTL_S)
    await loop_time.pass_s(TTL_S)
    await until(lambda: api_keys.age_s() == 0)
    assert await api_keys.find(text) is None


async def test_unknown_keys_cause_no_query(opened: Open, database: Database) -> None:
    """Any number of guessed keys causes one query."""
    api_keys = opened()
    queries = count_queries(database)
    for _ in range(3):
        guesses = (api_keys.find(f"cu_{guess}\udcff") for guess in range(500))
        assert set(await asyncio.gather(*guesses)) == {None}
    assert len(reads(queries)) == 1


async def test_keys_stay_valid_while_the_database_is_away(
    opened: Open,
    database: Database,
    until: Until,
    loop_time: LoopTime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Failing reads change nothing until the copy is too old; then they are told."""
    attempts = []

    async def fail(_database: Database) -> NoReturn:
        attempts.append(1)
        raise StorageUnavailable("away")

    text = await add_key(database, "shop")
    clock = Clock()
    api_keys = opened(clock=clock)
    assert await api_keys.find(text) is not None
    with monkeypatch.context() as patched:
        patched.setattr(module, "list_keys", fail)
        await loop_time.pass_s(TTL_S)
        await until(lambda: bool(attempts))
        clock.pass_s(GRACE_S)
        assert await api_keys.find(text) is not None
        clock.pass_s(1.0)
        with pytest.raises(StorageUnavailable, match="away"):
            await api_keys.find(text)
    await loop_time.pass_s(TTL_S)
    await until(lambda: api_keys.age_s() < GRACE_S)
    assert await api_keys.find(text) is not None


async def test_a_first_read_that_fails(
    opened: Open, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting requests share one failed query; the next request repeats it."""
    attempts = []

    async def fail(_database: Database) -> NoReturn:
        attempts.append(1)
        await asyncio.sleep(0)
        raise StorageUnavailable("away")

    text = await add_key(database, "shop")
    api_keys = opened()
    with monkeypatch.context() as patched:
        patched.setattr(module, "list_keys", fail)
        callers = (api_keys.find(text) for _ in range(50))
        results = await asyncio.gather(*callers, return_exceptions=True)
        with pytest.raises(StorageUnavailable):
            await api_keys.find(text)

    assert {(type(each), str(each)) for each in results} == {
        (StorageUnavailable, "away")
    }
    assert len(attempts) == 2
    assert await api_keys.find(text) is not None


async def test_digests_are_compared_in_constant_time(
    opened: Open, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digests are compared by `hmac.compare_digest`."""
    compare = Mock(side_effect=hmac.compare_digest)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    text = await add_key(database, "shop")
    digest = hashlib.sha256(text.encode()).digest()

    assert await opened().find(text) is not None
    compare.assert_called_once_with(digest, digest)


async def test_the_sandbox_key_is_not_stored(opened: Open, database: Database) -> None:
    """A service without the sandbox does not accept the key."""
    with_sandbox = opened(fixed=[sandbox_key()])
    found = await with_sandbox.find(SANDBOX_KEY)

    assert found is not None
    assert (found.application, found.scopes) == (SANDBOX_APPLICATION, frozenset(SCOPES))
    assert await opened().find(SANDBOX_KEY) is None
    assert await list_keys(database) == []


async def test_changes_of_this_process_are_known_at_once(
    opened: Open, database: Database
) -> None:
    """A look without waiting finds what was read, by text; a session finds it by id."""
    api_keys = opened()
    assert api_keys.peek("cu_unknown") is None
    text = await add_key(database, "shop")
    await api_keys.read_again()
    found = api_keys.peek(text)
    assert found is not None
    assert await api_keys.find_by_id(found.id) == found
    await revoke_keys(database, found.id)
    api_keys.forget(found.id)
    assert api_keys.peek(text) is None
    await api_keys.read_again()
    assert await api_keys.find_by_id(found.id) is None
