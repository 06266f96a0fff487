"""The consumers in the documentation, as readers copy them."""

import asyncio
import json
import os
import re
import signal
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import Client
from tests.events.conftest import Caller, at, on_sqlite, send
from tests.patience import GIVE_UP_S

PAGE: Final = Path(__file__).parents[2] / "docs" / "collect-events.md"


class Enough(Exception):
    """The consumer has received what the test expects."""


def example(language: str, client: Client) -> str:
    """Return the only block of a language, for the service of a client."""
    (code,) = re.findall(
        rf"```{language}\n(.*?)```",
        PAGE.read_text().partition("## Follow events")[2].partition("\n## ")[0],
        re.DOTALL,
    )
    address = str(client.make_url("")).rstrip("/")
    return str(code).replace("http://127.0.0.1:8000", address)


def key_of(client: Client) -> str:
    """Return the API key of a client."""
    return client.session.headers["Authorization"].removeprefix("Bearer ")


@on_sqlite
async def test_the_consumer_in_python_continues_where_it_stopped(
    caller: Caller, tmp_path: Path
) -> None:
    """It processes each event, and again those of a page that it had not finished."""
    client = await caller()
    names: dict[str, Any] = {}
    exec(example("py", client), names)  # noqa: S102
    place, found, ends = tmp_path / "place.txt", list[str](), list[str]()

    def process(event: dict[str, Any]) -> None:
        if event["id"] == ends[-1]:
            raise Enough
        found.append(event["id"])

    def consume() -> None:
        with pytest.raises(Enough):
            names["follow"](key_of(client), process, place)

    for number in range(2):
        ends.append(f"end {number}")
        await send(client, at("/", id=f"{number}"))
        consumer = asyncio.create_task(asyncio.to_thread(consume))
        async with asyncio.timeout(GIVE_UP_S):
            while not (place.exists() and f"{number}" in found):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await send(client, at("/", id=ends[-1]))
            await consumer
    assert found == ["0", "end 0", "1"]


@on_sqlite
async def test_the_consumer_of_the_shell_prints_each_event(
    caller: Caller, tmp_path: Path
) -> None:
    """The loop of curl prints events that exist, and those that arrive later."""
    client = await caller()
    await send(client, at("/0"))
    loop = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        example("sh", client),
        cwd=tmp_path,
        env={**os.environ, "KEY": key_of(client)},
        stdout=PIPE,
        start_new_session=True,
    )
    assert loop.stdout is not None
    try:
        async with asyncio.timeout(GIVE_UP_S):
            for number in range(3):
                line = json.loads(await loop.stdout.readline())
                assert line["data"]["path"] == f"/{number}"
                await send(client, at(f"/{number + 1}"))
    finally:
        os.killpg(loop.pid, signal.SIGKILL)
        await loop.wait()
