"""A real Prometheus with our rules, whose durations are scaled down."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiohttp import ClientError, ClientSession

from scripts.scale_rules import scale
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import LOOK_AGAIN_S, ROOT

PROMTOOL: Final = "promtool"
PROMETHEUS: Final = "prometheus"
CONFIG_FILE: Final = ROOT / "deploy" / "prometheus" / "prometheus.yaml"
ALERTS_FILE: Final = ROOT / "deploy" / "prometheus" / "alerts.yaml"
LOOK_S: Final = 0.25


class Firing(NamedTuple):
    """An alert that fires, and what it is about."""

    name: str
    severity: str
    domain: str
    slo: str


class Prometheus:
    """The HTTP API of a running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.seen: set[Firing] = set()
        """Every alert that has fired at one of the calls of `firing`."""

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query, which must be valid."""
        answer = await self._get("/api/v1/query", query=expression)
        assert answer["status"] == "success", (expression, answer)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    async def firing(self) -> set[Firing]:
        """Return the alerts that fire now."""
        answer = await self._get("/api/v1/alerts")
        found = {
            Firing(
                each["labels"]["alertname"],
                each["labels"]["severity"],
                each["labels"].get("domain", ""),
                each["labels"].get("slo", ""),
            )
            for each in answer["data"]["alerts"]
            if each["state"] == "firing"
        }
        self.seen |= found
        return found

    async def until(self, holds: Callable[[set[str]], bool], limit_s: float) -> None:
        """Wait until the names of the alerts that fire are as expected."""
        async with asyncio.timeout(limit_s):
            while not holds(names(await self.firing())):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)

    async def until_ready(self) -> None:
        """Wait until it answers."""
        async with asyncio.timeout(GIVE_UP_S):
            while True:
                with suppress(ClientError):
                    await self.firing()
                    return
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        async with (
            ClientSession(self._url) as session,
            session.get(path, params=parameters) as answer,
        ):
            found: dict[str, Any] = await answer.json()
            return found


def names(firing: set[Firing]) -> set[str]:
    """Return the names of alerts, but for those of latency: a machine may be slow."""
    return {each.name for each in firing if each.slo != "latency"}


@contextmanager
def running_prometheus(folder: Path, port: int, factor: float) -> Iterator[Prometheus]:
    """Run Prometheus with the shipped configuration, scaled; it scrapes a port."""
    for file in (CONFIG_FILE, ALERTS_FILE):
        text = scale(file.read_text(), factor)
        text = text.replace("copilot-usage:8000", f"127.0.0.1:{port}")
        (folder / file.name).write_text(text)
    address = f"127.0.0.1:{free_port()}"
    # Debian's program stores elsewhere by default.
    own = ["--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
    own += [f"--web.listen-address={address}", "--log.level=warn"]
    with (
        (folder / "prometheus.log").open("wb") as log,
        subprocess.Popen(  # noqa: S603
            [PROMETHEUS, *own], cwd=folder, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield Prometheus(f"http://{address}")
        finally:
            process.kill()
