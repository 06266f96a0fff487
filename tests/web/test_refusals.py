"""Refusals in the log: each has its code, and a 503 its reason."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from tests.conftest import MakeClient, always


@pytest.mark.parametrize(
    "target, status, code",
    [
        ("GET /nowhere", 404, "not_found"),
        ("GET /usage/99", 404, "message_not_found"),
        ("GET /usage?limit=0", 400, "invalid_parameter"),
        ("GET /usage?plan=none", 400, "unknown_plan"),
        ("GET /vehicles/lookup?vin=1", 422, "invalid_vin"),
        ("DELETE /usage", 405, "method_not_allowed"),
        ("GET /usage", 406, "not_acceptable"),
    ],
)
async def test_a_refusal_has_its_code_in_the_log(
    *,
    client: MakeClient,
    log_entries: list[EventDict],
    tmp_path: Path,
    target: str,
    status: int,
    code: str,
) -> None:
    """The log line has the code of the answer, also without a handler."""
    storage = {"url": f"sqlite+aiosqlite:///{tmp_path}/vehicles.db"}
    service = await client(vehicles={"enabled": True}, storage=storage)
    method, path = target.split()
    headers = {"Accept": "image/png"} if status == 406 else {}

    response = await service.request(method, path, headers=headers)

    assert (response.status, (await response.json())["code"]) == (status, code)
    (line,) = [each for each in log_entries if each["event"] == "http.request"]
    assert (line["http.response.status_code"], line["code"]) == (status, code)
    assert "reason" not in line


async def test_a_failure_has_its_code_and_reason_in_the_log(
    client: MakeClient, sandbox: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """The upstream's status is in the log only."""
    sandbox.sandbox.faults = always("not_found")
    service = await client()

    response = await service.get("/usage")

    assert response.status == 503
    assert "upstream answered" not in await response.text()
    (line,) = [each for each in log_entries if each["event"] == "http.request"]
    assert line["code"] == "messages_unavailable"
    assert line["reason"] == "upstream answered 404"


async def test_an_overload_and_a_limit_have_their_codes_in_the_log(
    client: MakeClient,
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
    until: Callable[[Callable[[], bool]], Awaitable[None]],
) -> None:
    """Requests over a limit have a code as well."""
    sandbox.sandbox.faults = always("hang")
    service = await client(server={"max_in_flight": 1})
    first = asyncio.create_task(service.get("/usage"))
    await until(lambda: sandbox.sandbox.in_flight == 1)
    assert (await service.get("/usage")).status == 503
    first.cancel()
    await asyncio.wait([first])
    limited = await client(limits={"rate_per_s": 0.001, "burst": 1})
    for _ in range(2):
        await limited.get("/usage/plans")

    lines = [each for each in log_entries if each["event"] == "http.request"]
    codes = [each.get("code") for each in lines]
    assert {"overloaded", "rate_limited"} <= set(codes)
