"""The service on a port in this process, for a browser."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiohttp import web

from service.app import create_app
from service.sandbox.server import RunningSandbox, Sandbox
from service.server.runner import listening
from service.settings import load
from service.web.static_pages import DASHBOARD, NOT_BUILT
from tests.conftest import NO_WAITS, NOTHING_HELD, PATIENT

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = ROOT / "dashboard"
BUILT: Final = ROOT / "service/web/static/dashboard/index.html"
NEVER_BREAKS: Final = {"window_calls": 1_000, "minimum_calls": 1_000}
"""Settings with which provoked failures do not open the circuit."""

SERVER: Final = {"port": 0, "drain_s": 0.0, "shutdown_grace_s": 60.0}


class Served(NamedTuple):
    """A running service: URL, application and upstream."""

    url: str
    app: web.Application
    upstream: Sandbox


@asynccontextmanager
async def serving(
    sandbox: RunningSandbox, *, is_built: bool = True, **sections: dict[str, Any]
) -> AsyncIterator[Served]:
    """Run the service with these settings; by default it caches nothing."""
    upstream = {**PATIENT, **NO_WAITS, "base_url": sandbox.url}
    cache = {**NOTHING_HELD, "pause_after_failure_s": 0.0}
    options: dict[str, dict[str, Any]] = {
        "server": SERVER,
        "breaker": NEVER_BREAKS,
        "events": {"enabled": False},
        **sections,
        "upstream": upstream | sections.get("upstream", {}),
        "cache": cache | sections.get("cache", {}),
    }
    settings = load(options=options).settings
    app = create_app(settings)
    if not is_built:
        app[DASHBOARD] = NOT_BUILT
    async with listening(app, settings.server) as url:
        yield Served(url, app, sandbox.sandbox)


def build_page() -> None:
    """Build the page if the build is missing or older than its sources."""
    if not BUILT.exists() or BUILT.stat().st_mtime < max(_changed()):
        build = ["npm", "run", "--silent", "build"]
        environment = {**os.environ, "NO_COLOR": "1"}
        result = subprocess.run(  # noqa: S603 - a fixed command
            build,
            cwd=SOURCES,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr


def _changed() -> Iterator[float]:
    for part in ("src", "public"):
        for file in (SOURCES / part).rglob("*"):
            yield file.stat().st_mtime
    for file in SOURCES.glob("*.*"):
        yield file.stat().st_mtime
