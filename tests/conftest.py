"""Shared by all tests: settings without waits, a real upstream, captured logs.

`client` drives the real application over a socket against `sandbox`, an upstream of
our own on another. `mocked_upstream` fakes single failures that no socket gives.
"""

import asyncio
import logging
import os
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager
from itertools import count
from pathlib import Path
from typing import Any, Final, Protocol
from unittest.mock import Mock

import aioresponses.core
import asyncpg
import hypothesis
import msgspec
import pytest
import structlog
from aiohttp import ClientRequest, ClientResponse, ClientSession, StreamReader, web
from aiohttp.client_middlewares import build_client_middlewares
from aiohttp.client_proto import ResponseHandler
from aiohttp.test_utils import TestClient
from aioresponses import aioresponses as AioResponses  # noqa: N812
from msgspec.structs import replace
from pytest_aiohttp.plugin import AiohttpClient
from structlog.contextvars import clear_contextvars, merge_contextvars
from structlog.typing import EventDict
from yarl import URL

from service.app import create_app
from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.options import Faults, SandboxOptions
from service.sandbox.server import RunningSandbox, running_sandbox
from service.settings import Settings, StorageSettings, load
from service.storage.database import Database, migrate, open_database
from tests.clock import LoopTime, passing_loop_time
from tests.launcher import Launcher
from tests.metric_samples import Read, growth
from tests.patience import GIVE_UP_S as GIVE_UP_S  # noqa: PLC0414 - for all tests
from tests.schemas import drop_schema, fill_schema

SERVICES_REQUIRED: Final = os.environ.get("SERVICES") == "required"
POSTGRESQL: Final = "postgresql://postgres@127.0.0.1:5432/test"
"""The server for tests marked `services`; each uses its own schema."""

NO_WAITS: Final = {"backoff_base_s": 0.0, "backoff_max_s": 0.0}
QUICK_TURNS: Final = 200
LOOK_AGAIN_S: Final = 0.002
PATIENT: Final = {"timeout_s": 60.0, "deadline_s": 300.0}
"""A slow machine exceeds no time-out; a test about one lets the loop's time pass."""
NOTHING_HELD: Final = {
    "ttl_s": 0,
    "stale_while_revalidate_s": 0,
    "stale_if_error_s": 0,
    "report_ttl_s": 0.0,
    "missing_report_ttl_s": 0.0,
}
"""Every request refreshes, unless a test is about caching."""
OPEN: Final = {"require": ()}
"""Only events need a key, unless a test is about keys."""
UNPACED: Final = {"enabled": False, "requests_per_s": 0.0}
"""Vehicles are looked up only where a test is about them, as fast as can be."""
MOCKED_BODY_BYTES: Final = 1024 * 1024 * 1024

Client = TestClient[web.Request, web.Application]


class MakeSettings(Protocol):
    """Settings as shipped but for these sections' keys, without back-off or cache."""

    def __call__(self, **sections: dict[str, Any]) -> Settings: ...


class Hurried(Protocol):
    """A context in which each call to paths that start so takes so many seconds."""

    def __call__(
        self, seconds: float, path: str = "/"
    ) -> AbstractAsyncContextManager[None]: ...


class MakeClient(Protocol):
    """A client of the application, which runs with these settings on the sandbox."""

    async def __call__(self, **sections: dict[str, Any]) -> Client: ...


def message(message_id: int, text: str = "Rent?", **more: object) -> dict[str, object]:
    """A message as upstream tells it."""
    timestamp = "2024-04-29T03:25:03.613Z"
    return {"id": message_id, "text": text, "timestamp": timestamp, **more}


def report(report_id: int | str, name: str, credit_cost: float) -> dict[str, object]:
    """A report as upstream tells it."""
    return {"id": report_id, "name": name, "credit_cost": credit_cost}


def always(fault: str, **more: object) -> Faults:
    """Faults of which one strikes every request, or as `more` says."""
    return msgspec.convert({fault: 1.0, **more}, Faults)


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Start services as forks of one process; the coverage of these is not measured."""
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture
def settings() -> MakeSettings:
    """A factory of settings whose retries do not wait."""

    def make(**sections: dict[str, Any]) -> Settings:
        upstream = PATIENT | NO_WAITS | sections.pop("upstream", {})
        cache = NOTHING_HELD | sections.pop("cache", {})
        events = {"enabled": False} | sections.pop("events", {})
        vehicles = PATIENT | UNPACED | sections.pop("vehicles", {})
        for calls in (upstream, vehicles):
            calls["timeout_s"] = min(calls["timeout_s"], calls["deadline_s"])
        periods = {"enabled": False} | sections.pop("periods", {})
        server = {"request_timeout_s": 3_600.0} | sections.pop("server", {})
        parts = {"upstream": upstream, "cache": cache, "events": events}
        auth = OPEN | sections.pop("auth", {})
        parts |= {"server": server, "auth": auth}
        options = {**sections, **parts, "vehicles": vehicles, "periods": periods}
        return load(options=options).settings

    return make


@pytest.fixture
async def sandbox() -> AsyncIterator[RunningSandbox]:
    """An upstream on a free port, without messages until a test sets some."""
    async with running_sandbox(SandboxOptions(messages=0, reports=0)) as running:
        yield running


@pytest.fixture
def client(
    settings: MakeSettings, sandbox: RunningSandbox, aiohttp_client: AiohttpClient
) -> MakeClient:
    """A factory of clients of the application, one application each."""

    async def make(**sections: dict[str, Any]) -> Client:
        upstream = {"base_url": sandbox.url} | sections.pop("upstream", {})
        vehicles = {"base_url": sandbox.url + VPIC_PATH} | sections.pop("vehicles", {})
        made = settings(**sections, upstream=upstream, vehicles=vehicles)
        return await aiohttp_client(create_app(made))

    return make


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Let the loop run until something holds; fails where it never does."""

    async def wait(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(GIVE_UP_S):
            for turn in count():
                if holds():
                    return
                # Soon it leaves the processor to what is awaited.
                await asyncio.sleep(0 if turn < QUICK_TURNS else LOOK_AGAIN_S)

    return wait


@pytest.fixture
async def loop_time() -> AsyncIterator[LoopTime]:
    """Time of the test's event loop, which the test lets pass."""
    with passing_loop_time() as time:
        yield time


@pytest.fixture
def hurried(sandbox: RunningSandbox, loop_time: LoopTime) -> Hurried:
    """A factory of contexts in which each call to upstream takes so many seconds.

    They pass when it has received the call: a fault that hangs outlasts every time-out.
    """

    def hurry(seconds: float, path: str = "/") -> AbstractAsyncContextManager[None]:
        calls = sandbox.sandbox.calls

        def received() -> int:
            return sum(calls[at] for at in calls if at.startswith(path))

        return loop_time.passing(seconds, at_each=received)

    return hurry


@pytest.fixture(autouse=True)
def log_entries() -> Iterator[list[EventDict]]:
    """Every entry logged in the test, with the context that it was logged in.

    It is set up for each test, so that none inherits the logging of another.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    captured = structlog.testing.LogCapture()
    structlog.configure(processors=[merge_contextvars, captured])
    yield captured.entries
    clear_contextvars()
    if structlog.get_config()["cache_logger_on_first_use"]:
        _forget_cached_loggers()
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level


def _forget_cached_loggers() -> None:
    """Undo what `cache_logger_on_first_use` has done to the modules' loggers."""
    for name, module in list(sys.modules.items()):
        if name.startswith("service.") and hasattr(module, "log"):
            module.log.__dict__.pop("bind", None)


# --- storage ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of SQLite in shape, to be copied: that is faster than making one."""
    file = tmp_path_factory.mktemp("sqlite") / "empty.db"
    asyncio.run(migrate(storage_at(f"sqlite+aiosqlite:///{file}")))
    return file


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)]
)
async def storage(
    request: pytest.FixtureRequest, tmp_path: Path, empty_file: Path
) -> AsyncIterator[StorageSettings]:
    """An empty database in shape: a file, and a schema of its own in PostgreSQL."""
    if request.param == "sqlite":
        file = shutil.copy(empty_file, tmp_path / "events.db")
        yield storage_at(f"sqlite+aiosqlite:///{file}")
        return
    schema = f"test_{secrets.token_hex(8)}"
    connection = await asyncpg.connect(POSTGRESQL)
    await connection.execute(f"CREATE SCHEMA {schema}")
    try:
        url = POSTGRESQL.replace("postgresql", "postgresql+asyncpg")
        settings = storage_at(f"{url}?schema={schema}")
        await fill_schema(connection, schema, settings)
        yield settings
    finally:
        await drop_schema(connection, schema)
        await connection.close()


@pytest.fixture
async def database(storage: StorageSettings) -> AsyncIterator[Database]:
    """The same, open."""
    async with open_database(storage) as opened:
        yield opened


def storage_at(url: str) -> StorageSettings:
    """The storage settings as shipped, but for the URL."""
    return replace(load().settings.storage, url=url)


# --- aioresponses, mended -----------------------------------------------------------


class MendedResponse(ClientResponse):
    """A mocked response: aioresponses 0.7.9 leaves `stream_writer` out."""

    def __init__(self, method: str, url: URL, **parts: Any) -> None:
        super().__init__(method, url, **parts, stream_writer=Mock(output_size=0))


def mended_stream(loop: asyncio.AbstractEventLoop) -> StreamReader:
    """A stream that never asks its (missing) connection to pause."""
    return StreamReader(ResponseHandler(loop), limit=MOCKED_BODY_BYTES, loop=loop)


class MockedUpstream(AioResponses):
    """aioresponses that runs the request's middlewares, as a real session does."""

    async def _request_mock(
        self,
        orig_self: ClientSession,
        method: str,
        url: URL | str,
        *args: Any,
        **kwargs: Any,
    ) -> ClientResponse:
        middlewares = kwargs.pop("middlewares", ())
        request_mock = super()._request_mock

        async def send(_request: ClientRequest) -> ClientResponse:
            answer = await request_mock(orig_self, method, url, *args, **kwargs)
            assert isinstance(answer, ClientResponse)
            return answer

        return await build_client_middlewares(send, middlewares)(
            Mock(spec=ClientRequest, method=method, url=url)
        )


@pytest.fixture
def mocked_upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockedUpstream]:
    """An aioresponses that works on this aiohttp, for failures no socket gives."""
    monkeypatch.setattr(aioresponses.core, "ClientResponse", MendedResponse)
    monkeypatch.setattr(aioresponses.core, "stream_reader_factory", mended_stream)
    mocked = MockedUpstream()
    with mocked:
        yield mocked


# --- tests that need another server, or signals -------------------------------------


# An example may take as long as it takes: the machine may be slow.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


def pytest_configure() -> None:
    """Let processes that tests start find compiled modules, and SIGINT as it should be.

    Each of hundreds would compile the service again. A background job of a shell has
    SIGINT ignored, and so have its children.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave the tests marked `services` out unless services are required."""
    if SERVICES_REQUIRED:
        return
    deselected = [item for item in items if item.get_closest_marker("services")]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, pytest.TestReport]:
    """Fail a skipped test if services are required."""
    report: pytest.TestReport = yield
    if SERVICES_REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, though SERVICES=required: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, pytest.CollectReport]:
    """Fail a skipped module if services are required."""
    report: pytest.CollectReport = yield
    if SERVICES_REQUIRED and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, though SERVICES=required: {report.longrepr}"
    return report


@pytest.fixture
def added() -> Read:
    """A function that reads the growth of a metric since the test began."""
    return growth()
