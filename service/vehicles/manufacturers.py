"""Manufacturers by their code (WMI), the first three characters of a VIN.

A process keeps them in its memory. Concurrent look-ups of a code share one call.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from service.settings import VehiclesSettings
from service.storage.lru_cache import LruCache
from service.upstream.bodies import decode
from service.upstream.client import UpstreamClient
from service.upstream.errors import UpstreamError
from service.vehicles.details import clean
from service.vehicles.errors import (
    InvalidWmi,
    LookupsFull,
    UnknownWmi,
    VehicleUnavailable,
)
from service.vehicles.vin import shown, trimmed

PATH: Final = "/vehicles/DecodeWMI/{wmi}"
MAX_CALLS: Final = 16
"""Calls that wait, each for the one before: further ones are refused."""
MAX_CACHED: Final = 1_000
"""vPIC knows some 20,000 codes; a process is asked for few of them."""

_WMI: Final = re.compile(r"(?:[A-HJ-NPR-Z0-9]{3}){1,2}")


class WmiRow(Struct, frozen=True, rename="pascal"):
    """A manufacturer as in an answer of vPIC."""

    manufacturer_name: str | None
    make: str | None = None
    common_name: str | None = None
    parent_company_name: str | None = None
    vehicle_type: str | None = None
    url: str | None = msgspec.field(name="URL", default=None)


class WmiAnswer(Struct, frozen=True, rename="pascal"):
    """An answer; its other members are unreliable."""

    results: Sequence[WmiRow]


class Manufacturer(Struct, frozen=True, kw_only=True):
    """A manufacturer; empty texts are unknown."""

    wmi: str
    manufacturer: str
    make: str
    common_name: str
    parent_company: str
    vehicle_type: str
    url: str
    cached_result: bool
    """True if it was cached, so that nothing was requested from vPIC."""


class _Cached(NamedTuple):
    row: WmiRow | None
    at: float
    """On the monotonic clock, in seconds."""


_decoder: Final = msgspec.json.Decoder(WmiAnswer)


def parse_wmi(text: str) -> str:
    """Return a code in capitals: three characters, or six for small manufacturers.

    Raises `InvalidWmi`.
    """
    wmi = trimmed(text).upper()
    if _WMI.fullmatch(wmi):
        return wmi
    raise InvalidWmi(
        f"{shown(text)!a} is no code of a manufacturer; it has 3 or 6 letters and "
        "digits, but no I, O or Q"
    )


class Manufacturers:
    """Looks up manufacturers; there is one in each process."""

    def __init__(self, settings: VehiclesSettings, client: UpstreamClient) -> None:
        self._settings = settings
        self._client = client
        self._cached = LruCache[str, _Cached](MAX_CACHED)
        self._turn = asyncio.Lock()
        self._calls: dict[str, asyncio.Task[WmiRow | None]] = {}

    async def look_up(self, wmi: str) -> Manufacturer:
        """Return the manufacturer with a code.

        While vPIC is unavailable, an expired one is returned. Raises `UnknownWmi` and
        `VehicleUnavailable`.
        """
        cached = self._cached.get(wmi)
        if cached is not None and self._is_fresh(cached):
            return _answer(wmi, cached.row, is_cached=True)
        try:
            row = await self._ask_shared(wmi)
        except VehicleUnavailable:
            if cached is None:
                raise
            return _answer(wmi, cached.row, is_cached=True)
        return _answer(wmi, row, is_cached=False)

    async def close(self) -> None:
        """Cancel the calls in progress."""
        calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def _ask_shared(self, wmi: str) -> WmiRow | None:
        call = self._calls.get(wmi)
        if call is None and len(self._calls) >= MAX_CALLS:
            raise LookupsFull(f"{MAX_CALLS} calls about manufacturers wait for vPIC")
        if call is None:
            call = asyncio.get_running_loop().create_task(self._ask(wmi))
            self._calls[wmi] = call
            call.add_done_callback(lambda _: self._calls.pop(wmi, None))
        # A client that disconnects does not cancel the call of the others.
        return await asyncio.shield(call)

    async def _ask(self, wmi: str) -> WmiRow | None:
        path = PATH.replace("{wmi}", wmi) + "?format=json"
        try:
            # One at a time, so that most of vPIC's rate is left to VINs.
            async with asyncio.timeout(self._settings.deadline_s), self._turn:
                response = await self._client.fetch(path, template=PATH)
            answer = decode(response, _decoder)
        except TimeoutError:
            raise VehicleUnavailable("no answer in time") from None
        except UpstreamError as error:
            raise VehicleUnavailable(str(error), error.retry_after_s) from error
        row = next((each for each in answer.results if each.manufacturer_name), None)
        self._cached.put(wmi, _Cached(row, time.monotonic()))
        return row

    def _is_fresh(self, cached: _Cached) -> bool:
        settings = self._settings
        ttl_s = settings.ttl_s if cached.row else settings.missing_ttl_s
        return time.monotonic() - cached.at < ttl_s


def _answer(wmi: str, row: WmiRow | None, *, is_cached: bool) -> Manufacturer:
    if row is None:
        raise UnknownWmi(f"vPIC knows no manufacturer with the code {wmi}")
    values: dict[str, Any] = {
        "manufacturer": row.manufacturer_name,
        "make": row.make,
        "common_name": row.common_name,
        "parent_company": row.parent_company_name,
        "vehicle_type": row.vehicle_type,
        "url": row.url,
    }
    cleaned = {name: clean(value or "") for name, value in values.items()}
    return Manufacturer(wmi=wmi, **cleaned, cached_result=is_cached)
