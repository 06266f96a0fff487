"""Fixtures of the tests of vehicles: clients of the service, VINs, and a barrier."""

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
from typing import Any, Final, NamedTuple

import pytest
from aiohttp import ClientResponse, web
from pytest_aiohttp.plugin import AiohttpClient

from service.app import create_app
from service.instants import US_PER_S, now_us
from service.sandbox.fake_vpic import (
    BATCH_PATH,
    VEHICLE_PREFIX,
    VPIC_PATH,
    FakeVpic,
    VinQuery,
)
from service.sandbox.server import RunningSandbox
from service.sandbox.vin_decoding import CHECK_DIGITS, has_right_check_digit
from service.settings import Settings, StorageSettings
from service.storage.database import open_database
from service.usage.shared_store import open_store
from service.vehicles.lookup import Lookups, open_lookups, source_of
from service.vehicles.model import Entry, Vehicle, Vin
from service.vehicles.store import VehicleStore
from tests.conftest import Client, MakeSettings
from tests.metric_samples import growth
from tests.patience import GIVE_UP_S
from tests.redis_servers import double, server, shared

__all__ = ["double", "server", "shared"]

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


async def store_expired(
    store: VehicleStore, *vins: Vin, vehicle: Vehicle | None = OTHER, days: float = 31
) -> None:
    """Keep what was told so many days ago."""
    entry = Entry(vehicle, now_us() - int(days * DAY_US))
    assert await store.save(dict.fromkeys(vins, entry), {}) == set(vins)


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

    async def look_up(self, vin: str, **more: str) -> Answer:
        """Look one VIN up."""
        return await self.get("/vehicles/lookup", vin=vin, **more)

    async def get(self, path: str, **query: str) -> Answer:
        """Send a GET request."""
        return await _read(await self.client.get(path, params=query))

    async def look_up_all(self, vins: Sequence[object], **more: object) -> Answer:
        """Look many up."""
        body = {"vins": vins, **more}
        return await _read(await self.client.post("/vehicles/lookup", json=body))

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
        storage: StorageSettings,
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
            "storage_wait_s": GIVE_UP_S,
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
    storage: StorageSettings,
) -> Serve:
    """A factory of applications; each call makes one, on the same storage."""
    return Serve(settings, aiohttp_client, sandbox, storage)


@pytest.fixture
async def stored(serve: Serve, storage: StorageSettings) -> AsyncIterator[VehicleStore]:
    """The database of these applications, as another process uses it."""
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


class VpicRequests(NamedTuple):
    """Requests that vPIC received, as counted by the sandbox."""

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
        """Number of requests for each VIN."""
        return self.sandbox.sandbox.vins

    def singles(self, vin: str) -> int:
        """Calls for one VIN alone."""
        return self.sandbox.sandbox.calls[VEHICLE_PREFIX + vin]


@pytest.fixture
def received(sandbox: RunningSandbox) -> VpicRequests:
    """Requests that vPIC received."""
    return VpicRequests(sandbox)


class VpicBarrier:
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
def barrier(monkeypatch: pytest.MonkeyPatch) -> Iterator[VpicBarrier]:
    """A gate in the sandbox's vPIC, behind where it counts: open at first."""
    made, receive = VpicBarrier(), FakeVpic.receive

    async def receive_at_barrier(vpic: FakeVpic, request: web.Request) -> VinQuery:
        question = await receive(vpic, request)
        await made.pass_through()
        return question

    monkeypatch.setattr(FakeVpic, "receive", receive_at_barrier)
    yield made
    made.open()


# --- metrics ------------------------------------------------------------------------

Added = Callable[..., float]


@pytest.fixture
def added() -> Added:
    """Return by how much a metric of vehicles has grown during the test."""
    read = growth()
    return lambda name, **labels: read(f"copilot_usage_vehicles_{name}_total", **labels)
