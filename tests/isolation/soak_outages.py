"""An outage of each dependency under load; `make soak` runs this, `make test` does not.

A proxy before the dependency drops all packets for a while. The service has one load of
each domain all the time. The figures are printed.
"""

import asyncio
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession
from sqlalchemy.engine import make_url

from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.options import SandboxOptions
from service.sandbox.server import RunningSandbox, running_sandbox
from service.settings import StorageSettings
from tests.events.conftest import event
from tests.events.faults.conftest import make_key
from tests.events.faults.senders import all_events, calling
from tests.isolation.proxy import Proxy, proxying
from tests.isolation.reading import code_of
from tests.redis_servers import RedisServer
from tests.running import exit_status, running, until

pytestmark = pytest.mark.services
OUTAGE_S: Final = float(os.environ.get("SOAK_OUTAGE_S", "30"))
CALM_S: Final = OUTAGE_S / 3
PAUSE_S: Final = 0.02
PATHS: Final = ("/health/live", "/usage", "/usage?limit=1")
LOOKUP: Final = "/vehicles/lookup?vin={}"
GRACE_S: Final = 10.0
UPSTREAM, DATABASE, CACHE = "upstream and vPIC", "PostgreSQL", "Redis"
VPIC: Final = "vPIC"
UNKNOWN: Final = "1XPWD40X1ED{:06d}"


class Load:
    """Requests of each kind, one after the other, and their answers in a phase."""

    def __init__(self, session: ClientSession) -> None:
        self.accepted: list[str] = []
        self.answers: dict[str, list[tuple[str, float]]] = {}
        self._session = session
        self._sent = 0

    def begin(self, phase: str) -> None:
        """Forget the answers before a phase, and print them at its end."""
        self.answers = {}
        print(f"  {phase}", flush=True)  # noqa: T201

    def show(self) -> None:
        """Print the codes and the times of each kind."""
        for kind, answers in sorted(self.answers.items()):
            times = sorted(taken_s * 1_000 for _, taken_s in answers)
            codes = dict(Counter(code for code, _ in answers))
            print(  # noqa: T201
                f"    {kind}: {codes}, median {statistics.median(times):.1f} ms, "
                f"p99 {times[int(len(times) * 0.99)]:.1f}, longest {times[-1]:.1f}",
                flush=True,
            )

    def codes(self, kind: str) -> set[str]:
        """Return the codes of the answers of a kind."""
        return {code for code, _ in self.answers[kind]}

    async def get(self, kind: str, path: str) -> None:
        """Send a request, and keep its code and its time."""
        started = time.perf_counter()
        async with self._session.get(path) as answer:
            await answer.read()
            code = await code_of(answer)
        self._keep(kind, code, started)

    async def send_event(self) -> None:
        """Send an event, and keep its id if it is accepted."""
        self._sent += 1
        event_id, started = str(self._sent), time.perf_counter()
        sent = [event(id=event_id)]
        async with self._session.post("/events", json=sent) as answer:
            code = await code_of(answer)
        if code == "202":
            self.accepted.append(event_id)
        self._keep("POST /events", code, started)

    async def look_up(self) -> None:
        """Look a VIN up that nobody has looked up before."""
        self._sent += 1
        await self.get("look-up", LOOKUP.format(UNKNOWN.format(self._sent)))

    def _keep(self, kind: str, code: str, started: float) -> None:
        taken_s = time.perf_counter() - started
        self.answers.setdefault(kind, []).append((code, taken_s))


@asynccontextmanager
async def loading(
    session: ClientSession,
    paths: Sequence[str] = PATHS,
    tolerated: tuple[type[Exception], ...] = (),
    pause_s: float = PAUSE_S,
) -> AsyncIterator[Load]:
    """Send requests of each kind while the context lasts."""
    load = Load(session)

    async def repeat(send: Callable[[], Awaitable[None]]) -> None:
        while True:
            with suppress(*tolerated):
                await send()
            await asyncio.sleep(pause_s)

    sends: list[Callable[[], Awaitable[None]]] = [
        *(partial(load.get, path, path) for path in paths),
        load.send_event,
        load.look_up,
    ]
    tasks = [asyncio.create_task(repeat(send)) for send in sends]
    try:
        yield load
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        failures = [each for each in ended if isinstance(each, Exception)]
        assert failures == []


@pytest.fixture
async def upstream() -> AsyncIterator[RunningSandbox]:
    """An upstream that is also vPIC."""
    async with running_sandbox(SandboxOptions(messages=2_000, reports=8)) as running:
        yield running


@pytest.fixture
async def proxies(
    upstream: RunningSandbox, cluster_storage: StorageSettings, tmp_path: Path
) -> AsyncIterator[dict[str, Proxy]]:
    """A proxy before each dependency, by its name."""
    redis_server = RedisServer(tmp_path)
    redis_server.start()
    storage = make_url(cluster_storage.url)
    ports = {
        UPSTREAM: int(upstream.url.rpartition(":")[2]),
        VPIC: int(upstream.url.rpartition(":")[2]),
        DATABASE: storage.port or 5432,
        CACHE: redis_server.port,
    }
    async with AsyncExitStack() as stack:
        stack.callback(redis_server.kill)
        yield {
            name: await stack.enter_async_context(proxying("127.0.0.1", port))
            for name, port in ports.items()
        }


@pytest.mark.parametrize("lost", [UPSTREAM, DATABASE, CACHE])
async def test_an_outage(
    lost: str,
    proxies: dict[str, Proxy],
    cluster_storage: StorageSettings,
    tmp_path: Path,
) -> None:
    """Answers from memory never fail, nothing accepted is lost, and all works again."""
    key = await make_key(cluster_storage)
    settings = settings_of(proxies, cluster_storage)
    with ExitStack() as stack:
        # In a thread: the loop of the test runs the proxies that the start needs.
        starting = running(tmp_path / "log", **settings)
        service = await asyncio.to_thread(stack.enter_context, starting)
        async with calling(service.port, key) as session:
            await have_outage(lost, proxies[lost], session)
        proxies[lost].drop()
        started = time.perf_counter()
        service.process.send_signal(signal.SIGTERM)
        assert await exit_status(service.process) == 0
        ended_s = time.perf_counter() - started
        print(f"  SIGTERM in an outage: {ended_s:.1f} s", flush=True)  # noqa: T201


def settings_of(proxies: dict[str, Proxy], storage: StorageSettings) -> dict[str, Any]:
    """Return the settings of a service behind the proxies, else as shipped."""
    url = f"http://127.0.0.1:{proxies[UPSTREAM].port}"
    database = make_url(storage.url).set(host="127.0.0.1", port=proxies[DATABASE].port)
    return {
        "sandbox__enabled": False,
        "events__enabled": True,
        "upstream__base_url": url,
        "upstream__timeout_s": 5.0,
        "upstream__deadline_s": 20.0,
        "vehicles__base_url": url + VPIC_PATH,
        "vehicles__requests_per_s": 0,
        "cache__ttl_s": 1.0,
        "cache__redis_url": f"redis://127.0.0.1:{proxies[CACHE].port}/0",
        "storage__url": database.render_as_string(hide_password=False),
        "server__shutdown_grace_s": GRACE_S,
    }


async def have_outage(lost: str, proxy: Proxy, session: ClientSession) -> None:
    """Load the service before, during and after an outage."""
    print(f"\noutage of {lost}", flush=True)  # noqa: T201
    async with session.get("/usage") as answer:
        assert answer.status == 200
    async with loading(session) as load:
        load.begin("before")
        await asyncio.sleep(CALM_S)
        load.show()
        load.begin(f"no packets for {OUTAGE_S:g} s")
        proxy.drop()
        await asyncio.sleep(OUTAGE_S)
        load.show()
        assert {code for path in PATHS for code in load.codes(path)} == {"200"}
        load.begin("after")
        proxy.forward()
        await until(lambda: is_healed(load))
        load.begin("healed")
        await asyncio.sleep(CALM_S)
        load.show()
        assert {code for path in PATHS for code in load.codes(path)} == {"200"}
        assert load.codes("POST /events") == {"202"}
        assert load.codes("look-up") <= {"200", "vin_not_decoded"}
    stored = {each["id"] for each in await all_events(session)}
    assert stored >= set(load.accepted)


def is_healed(load: Load) -> bool:
    """Return whether the last event was accepted, and the last VIN looked up."""
    events = load.answers.get("POST /events", [])
    vins = load.answers.get("look-up", [])
    return (
        bool(events and vins)
        and events[-1][0] == "202"
        and vins[-1][0] in {"200", "vin_not_decoded"}
    )
