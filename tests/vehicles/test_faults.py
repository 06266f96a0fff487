"""Faults of vPIC: what callers get, what is kept of it, and how it heals."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

import pytest

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.vehicles.store import VehicleStore
from tests.clock import LoopTime
from tests.conftest import Hurried, always
from tests.vehicles.conftest import (
    OTHER,
    UNKNOWN,
    VIN,
    Answer,
    Asked,
    Caller,
    Serve,
    Until,
    keep_old,
    on_sqlite,
    vin,
    vins,
)

Outlasting = Callable[[str], AbstractAsyncContextManager[None]]

ATTEMPTS: Final = 2
FAULTS: Final = {
    "html": 1,
    "forbidden": 1,
    "xml": 1,
    "too_many_requests": ATTEMPTS,
    "server_error": ATTEMPTS,
    "unavailable": ATTEMPTS,
    "not_found": 1,
    "empty_list": 1,
    "other_vins": 1,
    "missing_field": 1,
    "wrong_type": 1,
    "hang": ATTEMPTS,
    "reset": ATTEMPTS,
    "truncated": ATTEMPTS,
    "gzip_bomb": 1,
    "redirect": 1,
    "huge_body": 1,
    "slow_drip": ATTEMPTS,
}
"""How often each is tried: what would be answered the same way is not asked again."""


TRY_S = 10.0
ENDLESS = {"hang", "slow_drip"}
"""Faults that only the time-out of a try ends."""
SOON_AGAIN = {"open_s": 1e-9, "half_open_calls": 1}
"""A circuit that lets the next call try."""


@pytest.fixture
def outlasting(hurried: Hurried) -> Outlasting:
    """A factory of contexts in which each try of an endless fault runs out of time."""

    def end_tries(fault: str) -> AbstractAsyncContextManager[None]:
        return hurried(TRY_S) if fault in ENDLESS else nullcontext()

    return end_tries


def few_tries(**more: Any) -> dict[str, Any]:
    """Settings of few tries."""
    few = {"attempts": ATTEMPTS, "max_body_bytes": 65_536}
    return {**few, "timeout_s": TRY_S, "deadline_s": 600.0, **more}


async def ask(one: Caller, asked_for: Sequence[str]) -> list[Any]:
    """Look up one, or several together; gives what is said of each."""
    if len(asked_for) > 1:
        answer = await one.look_up_all(asked_for)
        assert answer.status == 200
        return list(answer.body["results"])
    answer = await one.look_up(asked_for[0])
    if answer.status == 200:
        return [answer.body]
    assert_unavailable(answer)
    return [{"vin": asked_for[0], "error": answer.body["code"]}]


def assert_unavailable(answer: Answer) -> None:
    """Fail unless the caller is told when to come back, and nothing of vPIC's words."""
    assert answer.problem == (503, "vehicle_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "upstream" not in str(answer.body)


# --- vPIC ---------------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize("count", [1, 3], ids=["single", "batch"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_keeps_nothing_wrong(
    serve: Serve,
    kept: VehicleStore,
    *,
    sandbox: RunningSandbox,
    asked: Asked,
    outlasting: Outlasting,
    fault: str,
    count: int,
) -> None:
    """Callers are told so, nothing is kept of it, and the next request heals it."""
    sandbox.sandbox.faults = always(fault, retry_after="0")
    one = await serve(vehicles=few_tries(), breaker=SOON_AGAIN)

    async with outlasting(fault):
        told = await ask(one, vins(count))

    assert [(each["vin"], each["error"]) for each in told] == [
        (each, "vehicle_unavailable") for each in vins(count)
    ]
    assert asked.calls == FAULTS[fault]
    assert {each.entry for each in (await kept.find(vins(count))).values()} == {None}
    sandbox.sandbox.faults = Faults()
    healed = await ask(one, vins(count))
    assert [each["cached_result"] for each in healed] == [False] * count


@on_sqlite
@pytest.mark.parametrize(
    "fault",
    [
        *("html", "forbidden", "server_error", "hang", "truncated", "empty_list"),
        *("other_vins", "missing_field", "wrong_type"),
    ],
)
async def test_a_fault_takes_nothing_away(
    serve: Serve,
    kept: VehicleStore,
    *,
    sandbox: RunningSandbox,
    outlasting: Outlasting,
    fault: str,
) -> None:
    """What was kept is given while it is too old, and neither changed nor renewed."""
    await keep_old(kept, *vins(2))
    before = await kept.find(vins(2))
    sandbox.sandbox.faults = always(fault, retry_after="0")
    one = await serve(vehicles=few_tries())

    async with outlasting(fault):
        told = await ask(one, vins(2)) + await ask(one, vins(1))

    assert [each["make"] for each in told] == [OTHER.make] * 3
    assert {each["cached_result"] for each in told} == {True}
    assert await kept.find(vins(2)) == before


@on_sqlite
@pytest.mark.parametrize(
    "fault, calls",
    [
        *((fault, 1) for fault in ("html", "forbidden", "xml")),
        *((fault, 2) for fault in ("server_error", "hang", "reset", "truncated")),
        ("too_many_requests", 2),
        *((fault, 3) for fault in ("not_found", "redirect", "empty_list")),
        *((fault, 3) for fault in ("wrong_type", "huge_body")),
    ],
)
async def test_which_faults_open_the_circuit(
    serve: Serve,
    sandbox: RunningSandbox,
    *,
    asked: Asked,
    outlasting: Outlasting,
    fault: str,
    calls: int,
) -> None:
    """Being shut out does so at once, illness when it lasts, other answers never."""
    sandbox.sandbox.faults = always(fault, retry_after="0")
    breaker = {"minimum_calls": 2, "open_s": 3_000.0}
    one = await serve(vehicles=few_tries(attempts=1), breaker=breaker)
    async with outlasting(fault):
        for number in range(3):
            await one.look_up(vin(number))

    assert asked.calls == calls


@on_sqlite
async def test_a_try_that_fails_is_repeated(
    serve: Serve, sandbox: RunningSandbox, asked: Asked
) -> None:
    """Batches too, by POST: they only ask."""
    for fault in ("server_error", "reset", "truncated"):
        sandbox.sandbox.faults = always(fault, times=1)
        told = await ask(await serve(vehicles=few_tries()), vins(3))
        assert not any("error" in each for each in told)
        sandbox.sandbox.calls.clear()
        for each in vins(3):
            await (await serve()).remove(each)

    assert asked.vins[vin(1)] == 6


@on_sqlite
async def test_half_of_the_batches_fail(
    serve: Serve, sandbox: RunningSandbox, asked: Asked
) -> None:
    """What one batch has met takes nothing from the others."""
    sandbox.sandbox.faults = always("empty_list", times=1)
    one = await serve()

    told = await ask(one, vins(150))

    errors = [each.get("error") for each in told]
    assert errors.count("vehicle_unavailable") == 50
    assert errors.count(None) == 100
    again = await ask(one, vins(150))
    assert not any("error" in each for each in again)
    assert asked.batches == 4


@on_sqlite
async def test_an_unknown_vin_is_no_fault(
    serve: Serve, sandbox: RunningSandbox
) -> None:
    """Any number of them opens no circuit."""
    one = await serve(breaker={"minimum_calls": 1})
    for last in "123456":
        answer = await one.look_up(UNKNOWN[:-1] + last)
        assert answer.problem == (404, "vin_not_decoded")

    assert (await one.look_up(VIN)).status == 200


@on_sqlite
async def test_who_asks_while_vpic_is_slow(
    serve: Serve,
    kept: VehicleStore,
    *,
    sandbox: RunningSandbox,
    loop_time: LoopTime,
    until: Until,
) -> None:
    """What is kept is answered at once, while another look-up hangs."""
    await keep_old(kept, vin(1), days=1)
    sandbox.sandbox.faults = always("hang")
    one = await serve(vehicles={"timeout_s": TRY_S})

    asking = asyncio.create_task(ask(one, [VIN]))
    await until(lambda: sandbox.sandbox.in_flight == 1)
    assert (await one.look_up(vin(1))).status == 200
    await loop_time.pass_s(TRY_S)
    (stuck,) = await asking
    assert stuck["error"] == "vehicle_unavailable"
