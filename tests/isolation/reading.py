"""Readers of a running service: its metrics, its log, and the codes of its answers."""

import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, ClientSession
from prometheus_client.parser import text_string_to_metric_families

from tests.launcher import Service
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S


async def sample(session: ClientSession, name: str, **labels: str) -> float:
    """Return a sample of `/metrics`; 0 if it does not exist."""
    async with session.get("/metrics") as response:
        text = await response.text()
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            if each.name == name and each.labels == labels:
                return each.value
    return 0.0


async def until_sample(
    session: ClientSession, expected: float, name: str, **labels: str
) -> None:
    """Wait until a sample has this value."""
    async with asyncio.timeout(GIVE_UP_S):
        while await sample(session, name, **labels) != expected:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)


def lines(service: Service, event: str) -> list[dict[str, Any]]:
    """Return the lines of one event in the log of a service."""
    found = [each for each in service.log.read_text().splitlines() if each[:1] == "{"]
    entries: list[dict[str, Any]] = [json.loads(each) for each in found]
    return [each for each in entries if each["event"] == event]


async def code_of(response: ClientResponse) -> str:
    """Return the status, or the code of a problem."""
    if response.status < 400:
        return str(response.status)
    problem = await response.json(content_type=None)
    return str(problem["code"])


def peak_memory(process_id: int) -> int:
    """Return the largest resident memory of a process so far, in bytes."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")
    (line,) = [each for each in status.splitlines() if each.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
