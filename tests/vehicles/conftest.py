"""What the tests of vehicles share: callers of the service, VINs, and a closed gate."""

import asyncio
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import redis
from aiohttp import ClientResponse, web
from prometheus_client.parser import text_string_to_metric_families
from pytest_aiohttp.plugin import AiohttpClient
from redis import asyncio as redis_asyncio

from service import metrics
from service.app import create_app
from service.instants import US_PER_S, now_us
from service.sandbox.decoding import CHECK_DIGITS, has_right_check_digit
from service.sandbox.server import RunningSandbox
from service.sandbox.vpic import BATCH_PATH, VEHICLE_PREFIX, VPIC_PATH, Question, Vpic
from service.settings import Settings, Storage
from service.storage import shared_store
from service.storage.database import open_database
from service.usage.shared_cache import open_store
from service.vehicles.lookup import Lookups, open_lookups, source_of
from service.vehicles.model import Entry, Vehicle, Vin
from service.vehicles.store import VehicleStore
from tests.conftest import Client, MakeSettings
from tests.patience import GIVE_UP_S
from tests.redis_double import RedisDouble, RedisServer

VIN: Final = Vin("1XPWD40X1ED215307")
KNOWN: Final = {
    VIN: Vehicle("PETERBILT", "388", "2014", "Truck-Tractor"),
    Vin("1XKWDB0X57J211825"): Vehicle("KENWORTH", "W9 Series", "2007", "Truck-Tractor"),
    Vin("1XP5DB9X7YN526158"): Vehicle("PETERBILT", "379", "2000", "Truck-Tractor"),
    Vin("4V4NC9EJXEN171694"): Vehicle("VOLVO TRUCK", "VNL", "2014", "Truck-Tractor"),
    Vin("1XP5DB9X7XD487964"): Vehicle("PETERBILT", "379", "1999", "Truck-Tractor"),
}
UNKNOWN: Final = Vin("AAAAAAAAAAAAAAAAA")
"""A VIN that keeps the rules, of a maker that nobody knows."""
OTHER: Final = Vehicle("OTHER", "MAKE", "1999", "Van")
"""What no VIN of the tests is decoded to: it shows what was kept."""

Until = Callable[[Callable[[], bool]], Awaitable[None]]
Open = Callable[..., AbstractAsyncContextManager[Lookups]]

DAY_US: Final = 86_400 * US_PER_S

on_sqlite: Final = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)


def vin(number: int) -> Vin:
    """One of many VINs of a known maker, with the right check digit."""
    all_digits = (f"1XPWD40X{digit}ED{number:06}" for digit in CHECK_DIGITS)
    return Vin(next(filter(has_right_check_digit, all_digits)))


def vins(count: int) -> list[Vin]:
    """So many of them."""
    return [vin(number) for number in range(count)]


def fields_of(vehicle: Vehicle) -> dict[str, str]:
    """A vehicle as answers tell it."""
    return {name: getattr(vehicle, name) for name in vehicle.__struct_fields__}


async def keep_old(
    store: VehicleStore, *vins: Vin, vehicle: Vehicle | None = OTHER, days: float = 31
) -> None:
    """Keep what was told so many days ago."""
    entry = Entry(vehicle, now_us() - int(days * DAY_US))
    assert await store.keep(dict.fromkeys(vins, entry), {}) == set(vins)


class Answer(NamedTuple):
    """One answer, read."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def problem(self) -> tuple[int, str]:
        """The status, and the code of what is wrong."""
        return self.status, self.body["code"]


class Caller:
    """Asks one application."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def look_up(self, vin: str) -> Answer:
        """Look one VIN up."""
        return await _read(
            await self.client.get("/vehicles/lookup", params={"vin": vin})
        )

    async def look_up_all(self, vins: Sequence[object]) -> Answer:
        """Look many up."""
        return await _read(
            await self.client.post("/vehicles/lookup", json={"vins": vins})
        )

    async def remove(self, vin: str) -> Answer:
        """Forget one."""
        return await _read(
            await self.client.delete("/vehicles/remove", params={"vin": vin})
        )


async def _read(answer: ClientResponse) -> Answer:
    async with answer:
        return Answer(
            answer.status, await answer.json(content_type=None), answer.headers
        )


class Serve:
    """Makes applications that ask one sandbox and have one storage."""

    def __init__(
        self,
        make: MakeSettings,
        aiohttp_client: AiohttpClient,
        sandbox: RunningSandbox,
        storage: Storage,
    ) -> None:
        self._make = make
        self._client = aiohttp_client
        self._sandbox = sandbox
        self._storage = storage

    def settings(self, **sections: dict[str, Any]) -> Settings:
        """The settings of an application, which waits, and tries once."""
        vehicles = {
            "enabled": True,
            "base_url": self._sandbox.url + VPIC_PATH,
            "attempts": 1,
            "stale_wait_s": 3_600.0,
            **sections.pop("vehicles", {}),
        }
        upstream = {"base_url": self._sandbox.url, **sections.pop("upstream", {})}
        storage = {"url": self._storage.url, **sections.pop("storage", {})}
        return self._make(
            **sections, vehicles=vehicles, upstream=upstream, storage=storage
        )

    async def __call__(self, **sections: dict[str, Any]) -> Caller:
        app: web.Application = create_app(self.settings(**sections))
        return Caller(await self._client(app))


@pytest.fixture
def serve(
    settings: MakeSettings,
    aiohttp_client: AiohttpClient,
    sandbox: RunningSandbox,
    storage: Storage,
) -> Serve:
    """A factory of applications; each call makes one, on the same storage."""
    return Serve(settings, aiohttp_client, sandbox, storage)


@pytest.fixture
async def kept(serve: Serve, storage: Storage) -> AsyncIterator[VehicleStore]:
    """What these applications keep, as another process would see and change it."""
    async with open_database(storage) as database:
        yield VehicleStore(database, source_of(serve.settings()))


@pytest.fixture
def opened(serve: Serve) -> Open:
    """A factory of look-ups without an application around them."""

    @asynccontextmanager
    async def make(**sections: dict[str, Any]) -> AsyncIterator[Lookups]:
        settings = serve.settings(**sections)
        async with (
            open_database(settings.storage) as database,
            open_store(settings) as shared,
            open_lookups(settings, database, shared) as lookups,
        ):
            yield lookups

    return make


# --- what the sandbox was asked -----------------------------------------------------


class Asked(NamedTuple):
    """What vPIC was asked, by the sandbox's own count."""

    sandbox: RunningSandbox

    @property
    def calls(self) -> int:
        """All calls to it."""
        return sum(self.sandbox.sandbox.calls.values())

    @property
    def batches(self) -> int:
        """Those for many VINs."""
        return self.sandbox.sandbox.calls[BATCH_PATH]

    @property
    def vins(self) -> Counter[str]:
        """How often each VIN was asked for."""
        return self.sandbox.sandbox.vins

    def singles(self, vin: str) -> int:
        """Calls for one VIN alone."""
        return self.sandbox.sandbox.calls[VEHICLE_PREFIX + vin]


@pytest.fixture
def asked(sandbox: RunningSandbox) -> Asked:
    """What vPIC was asked."""
    return Asked(sandbox)


class Gate:
    """Holds vPIC's answers back, from `close` to `open`."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self.open()

    def open(self) -> None:
        """Let all through."""
        self._opened.set()

    def close(self) -> None:
        """Let none through."""
        self._opened.clear()

    async def pass_through(self) -> None:
        """Wait until it is open."""
        await self._opened.wait()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate in the sandbox's vPIC, behind where it counts: open at first."""
    made, receive = Gate(), Vpic.receive

    async def receive_at_gate(vpic: Vpic, request: web.Request) -> Question:
        question = await receive(vpic, request)
        await made.pass_through()
        return question

    monkeypatch.setattr(Vpic, "receive", receive_at_gate)
    yield made
    made.open()


# --- Redis --------------------------------------------------------------------------


class Shared(NamedTuple):
    """A store that processes share."""

    url: str
    forget: Callable[[], object]
    """Let everything in it expire."""


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> RedisDouble:
    """A Redis that is not there, and can be made to fail."""
    made = RedisDouble()
    monkeypatch.setattr(redis_asyncio.Redis, "from_url", made.from_url)
    return made


@pytest.fixture(
    params=["double", pytest.param("redis", marks=pytest.mark.services)],
)
def shared(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shared]:
    """What processes share: a dictionary, and a real Redis."""
    if request.param == "double":
        made: RedisDouble = request.getfixturevalue("double")
        yield Shared("redis://a.test", made.values.clear)
        return
    monkeypatch.setattr(shared_store, "CONNECT_S", GIVE_UP_S)
    monkeypatch.setattr(shared_store, "COMMAND_S", GIVE_UP_S)
    server = RedisServer(tmp_path)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        yield Shared(server.url, client.flushall)
    server.kill()


# --- metrics ------------------------------------------------------------------------

Added = Callable[..., float]


def _lookups() -> dict[tuple[str, str], float]:
    body, _ = metrics.expose("")
    return {
        (sample.name, str(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name.startswith("copilot_usage_vehicles_")
    }


@pytest.fixture
def added() -> Added:
    """How much a metric of vehicles has grown since the test began."""
    before = _lookups()

    def read(name: str, **labels: str) -> float:
        key = f"copilot_usage_vehicles_{name}_total", str(sorted(labels.items()))
        return _lookups().get(key, 0.0) - before.get(key, 0.0)

    return read
