"""Schemas that are read again: all of them in all workers, or none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from pytest_aiohttp.plugin import AiohttpClient
from structlog.typing import EventDict

from service.app import create_app
from service.keys.store import add_key
from service.settings import Settings
from service.storage.database import open_database
from tests.conftest import Client
from tests.events.conftest import OWN_EVENTS, event, on_sqlite, send

PATH: Final = "/admin/schemas/reload"
STRICT: Final = {"required": ["b"]}
LAX: Final = {"required": ["a"]}


def write(folder: Path, name: str, schema: object) -> None:
    """Write the schema of a type of the category `c`."""
    (folder / "c").mkdir(exist_ok=True)
    text = schema if isinstance(schema, str) else json.dumps(schema)
    (folder / "c" / f"{name}.json").write_text(text)


@pytest.fixture
async def operator(
    events_settings: Callable[..., Settings],
    aiohttp_client: AiohttpClient,
    tmp_path: Path,
) -> Client:
    """An operator of a service whose only schema refuses `A`."""
    write(tmp_path, "n", STRICT)
    settings = events_settings(types_folder=str(tmp_path))
    async with open_database(settings.storage) as database:
        key = await add_key(database, "shop", (*OWN_EVENTS, "admin"))
    headers = {"X-API-Key": key}
    client: Client = await aiohttp_client(create_app(settings), headers=headers)
    return client


A: Final = event(category="c", name="n", data={"a": 1})


@on_sqlite
async def test_new_schemas_are_used(
    operator: Client, tmp_path: Path, log_entries: list[EventDict]
) -> None:
    """Events and replays are validated by them; types may come and go."""
    assert (await send(operator, A))["failed"] == 1
    write(tmp_path, "n", LAX)
    write(tmp_path, "more", STRICT)
    assert (await send(operator, A))["failed"] == 1

    async with operator.post(PATH) as answer:
        assert answer.status == 200
        (worker,) = (await answer.json())["workers"]

    assert (worker["types"], worker["error"]) == (2, None)
    async with operator.post("/events/failed/replay") as answer:
        assert (await answer.json())["accepted"] == 1
    assert (await send(operator, event(category="c", name="more", data={})))["failed"]
    (entry,) = (each for each in log_entries if each["event"] == "admin.schemas_reload")
    assert entry["types"] == 2
    assert entry["schemas_revision"] == worker["revision"]


@on_sqlite
@pytest.mark.parametrize(
    "schema", ["{", "null", '{"type": 5}', '{"$ref": "a.json"}', "[" * 100_000]
)
async def test_one_bad_schema_refuses_all(
    operator: Client, tmp_path: Path, schema: str
) -> None:
    """The answer names the file, and the schemas in use stay."""
    write(tmp_path, "n", LAX)
    write(tmp_path, "z", schema)

    async with operator.post(PATH) as answer:
        problem = await answer.json()

    assert (answer.status, problem["code"]) == (409, "schemas_refused")
    assert "z.json" in problem["detail"]
    assert (await send(operator, A))["failed"] == 1
