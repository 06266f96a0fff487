"""Operation by hand in one process: state, refresh, log level, circuits, bad orders."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import structlog
from structlog.typing import EventDict

from service.keys.store import SANDBOX_KEY, sandbox_key
from service.observability import logs
from service.sandbox.server import RunningSandbox
from service.web.auth import AUTHENTICATOR
from tests.clock import LoopTime
from tests.conftest import Client, MakeClient, always, message

Until = Callable[[Callable[[], bool]], Awaitable[None]]
VIN: Final = "1XPWD40X1ED215307"
KEY: Final = {"Authorization": f"Bearer {SANDBOX_KEY}"}
FORCED: Final = "copilot_usage_circuits_forced"
STATE_OF: Final = {
    "copilot": 'copilot_usage_upstream_breaker_state{state="open",upstream="copilot"}',
    "vpic": 'copilot_usage_upstream_breaker_state{state="open",upstream="vpic"}',
    "database": 'copilot_usage_storage_breaker_state{state="open"}',
}
"""The series of open circuits."""
PATHS: Final = {
    "GET": ("/admin/state",),
    "POST": ("/admin/refresh", "/admin/log-level", "/admin/circuit/database"),
}


class Operator(NamedTuple):
    """An operator of a service, with a key."""

    service: Client

    async def state(self) -> dict[str, Any]:
        """The state of the only worker."""
        answer = await self.service.get("/admin/state", headers=KEY)
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-store"
        state = await answer.json()
        assert state["unreachable"] == []
        (worker,) = state["workers"]
        return dict(worker)

    async def post(self, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        """The status and the body of an order."""
        answer = await self.service.post(f"/admin/{path}", headers=KEY, **options)
        return answer.status, await answer.json()

    async def code(self, path: str) -> str | None:
        """The code of a problem, or None for a success."""
        answer = await self.service.get(path, headers=KEY)
        return None if answer.ok else (await answer.json())["code"]


Operate = Callable[..., Awaitable[Operator]]


@pytest.fixture
def operate(client: MakeClient, sandbox: RunningSandbox, tmp_path: Path) -> Operate:
    """A factory of operators of services with all domains."""
    sandbox.sandbox.set_messages([message(1)])

    async def make(**sections: dict[str, Any]) -> Operator:
        service = await client(
            storage={"url": f"sqlite+aiosqlite:///{tmp_path}/events.db"},
            events={"enabled": True},
            vehicles={"enabled": True},
            cache={"ttl_s": 3_600.0},
            upstream={"attempts": 1},
            **sections,
        )
        assert service.app is not None
        keys: Any = service.app[AUTHENTICATOR]._keys
        keys._fixed = (sandbox_key(),)
        return Operator(service)

    return make


@pytest.fixture
async def operator(operate: Operate) -> Operator:
    """An operator of a service with the usual settings."""
    return await operate()


async def test_the_state_is_that_of_the_process(
    operator: Operator, sandbox: RunningSandbox
) -> None:
    """It has the period, the last failure, and all bounded resources."""
    sandbox.sandbox.faults = always("server_error", times=1)
    assert await operator.code("/usage") == "messages_unavailable"
    empty = await operator.state()
    assert empty["snapshot"] is None
    assert empty["last_failure"]["error"] == "MessagesUnavailable"

    assert await operator.code("/usage") is None

    state = await operator.state()
    assert state["snapshot"]["messages"] == 1
    assert state["snapshot"]["is_servable"]
    assert not state["is_refreshing"]
    assert state["circuits"].keys() == {"copilot", "vpic", "database"}
    assert {each["state"] for each in state["circuits"].values()} == {"closed"}
    assert state["lanes"]["usage_queries"]["concurrency"] == 2
    assert state["pools"]["keys"]["size"] == 1
    assert state["backlog"] == {"events": 0, "bytes": 0}
    assert state["in_flight"]["admin"] == 1
    assert state["memory"]["peak_bytes"] > 0
    assert state["uptime_s"] >= 0


async def test_a_refresh_by_hand(
    operator: Operator, sandbox: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """It fetches a fresh period again, and a failure leaves the cached one."""
    status, first = await operator.post("refresh")
    assert (status, first["workers"][0]["outcome"]) == (200, "refreshed")
    _, same = await operator.post("refresh")
    assert same["workers"][0]["outcome"] == "unchanged"
    assert (
        same["workers"][0]["snapshot"]["revision"]
        == (first["workers"][0]["snapshot"]["revision"])
    )
    sandbox.sandbox.faults = always("server_error")

    status, failed = await operator.post("refresh")

    assert (status, failed["code"]) == (503, "refresh_failed")
    assert "MessagesUnavailable" in failed["detail"]
    assert await operator.code("/usage") is None
    logged = [each for each in log_entries if each["event"] == "admin.refresh"]
    assert [each["failed"] for each in logged] == [0, 0, 1]
    assert {each["key_id"] for each in logged} == {sandbox_key().id}


async def test_circuits_are_kept_and_given_back(
    operator: Operator, sandbox: RunningSandbox
) -> None:
    """An open one refuses, a closed one permits failures, and auto judges again."""
    causes = {"upstream": "/usage", "vpic": f"/vehicles/lookup?vin={VIN}"}
    codes = {"upstream": "messages_unavailable", "vpic": "vehicle_unavailable"}
    for name, path in causes.items():
        status, answer = await operator.post(f"circuit/{name}", json={"state": "open"})
        assert status == 200
        circuit = answer["workers"][0]["circuit"]
        assert circuit == {"state": "open", "is_forced": True, "until": None}
        before = sandbox.sandbox.calls.total()

        assert await operator.code(path) == codes[name]

        assert sandbox.sandbox.calls.total() == before
        await operator.post(f"circuit/{name}", json={"state": "close"})
        sandbox.sandbox.faults = always("server_error")
        for _ in range(30):
            assert await operator.code(path) == codes[name]
        state = await operator.state()
        assert state["circuits"][answer["workers"][0]["name"]]["state"] == "closed"
        sandbox.sandbox.faults = always("server_error", times=0)
        await operator.post(f"circuit/{name}", json={"state": "auto"})
        state = await operator.state()
        assert not state["circuits"][answer["workers"][0]["name"]]["is_forced"]


async def test_forced_circuits_are_in_the_metrics(operate: Operate) -> None:
    """They count as forced, and an open one as open, until they are given back."""
    operator = await operate(breaker={"open_s": 0.001})
    for name in ("copilot", "vpic", "database"):
        for order, state in (("open", "open"), ("close", "closed"), ("auto", None)):
            await operator.post(f"circuit/{name}", json={"state": order})
            scraped = await (await operator.service.get("/metrics")).text()
            lines = set(scraped.splitlines())
            for each in ("open", "closed"):
                kept = f'{FORCED}{{circuit="{name}",state="{each}"}}'
                assert f"{kept} {float(each == state)}" in lines
            assert f"{STATE_OF[name]} {float(state == 'open')}" in lines


async def test_the_circuit_of_the_database(operator: Operator) -> None:
    """An operator can refuse transactions, for example during its maintenance."""
    await operator.post("circuit/database", json={"state": "open"})
    assert await operator.code("/events") == "storage_unavailable"
    assert (await operator.state())["circuits"]["database"]["state"] == "open"

    await operator.post("circuit/database", json={"state": "auto"})

    assert await operator.code("/events") is None


async def test_the_log_level_changes_for_a_while(
    operator: Operator, loop_time: LoopTime
) -> None:
    """Loggers that are in use follow at once; then the settings apply again."""
    logs.configure("info", "json")
    log = structlog.get_logger().bind()

    status, answer = await operator.post(
        "log-level", json={"level": "error", "for_s": 60}
    )

    assert status == 200
    assert answer["workers"][0]["level"] == "error"
    assert answer["workers"][0]["until"]
    assert not log.is_enabled_for(logging.WARNING)
    await loop_time.pass_s(61.0)
    state = await operator.state()
    assert state["log_level"] == "info"
    assert log.is_enabled_for(logging.INFO)
    status, answer = await operator.post("log-level", json={"level": "debug"})
    assert answer["workers"][0]["until"] is None
    assert log.is_enabled_for(logging.DEBUG)


@pytest.mark.parametrize(
    "path, options, status, code",
    [
        ("log-level", {}, 400, "not_json"),
        ("log-level", {"json": {}}, 422, "invalid_body"),
        ("log-level", {"json": {"level": "loud"}}, 422, "invalid_body"),
        ("log-level", {"json": {"level": "info", "for_s": -1}}, 422, "invalid_body"),
        ("log-level", {"json": {"level": "info", "more": 1}}, 422, "invalid_body"),
        ("log-level", {"json": ["x" * 2_000]}, 413, "body_too_large"),
        ("log-level", {"data": b"level=info"}, 415, "unsupported_media_type"),
        ("circuit/database", {"json": {"state": "ajar"}}, 422, "invalid_body"),
        ("circuit/none", {"json": {"state": "open"}}, 404, "circuit_not_found"),
        ("refresh?wait=1", {}, 400, "invalid_parameter"),
        ("restart", {}, 404, "not_found"),
    ],
)
async def test_bad_orders_are_refused(
    operator: Operator, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    """The problem says what is wrong, and nothing happens."""
    found, problem = await operator.post(path, **options)

    assert (found, problem["code"]) == (status, code)
    if code == "circuit_not_found":
        assert "copilot, vpic, database" in problem["detail"]


async def nothing() -> AsyncIterator[bytes]:
    """Send a chunked body without a chunk that has content."""
    chunks: list[bytes] = []
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize(
    "body", [None, b"", nothing, b" \r\n\t"], ids=["none", "0", "chunked", "blank"]
)
async def test_an_empty_body_is_named_so(operator: Operator, body: Any) -> None:
    """The detail does not say that something is cut off."""
    data = body() if callable(body) else body
    headers = {**KEY, "Content-Type": "application/json"}
    answer = await operator.service.post("/admin/log-level", data=data, headers=headers)

    problem = await answer.json()
    assert (answer.status, problem["code"]) == (400, "not_json")
    assert problem["detail"] == "the body is empty; send a JSON object"


async def test_orders_need_a_key(operator: Operator, client: MakeClient) -> None:
    """Without a key nothing is answered or done, also where there can be no keys."""
    for service in (operator.service, await client()):
        for method, paths in PATHS.items():
            for path in paths:
                answer = await service.request(method, path)
                assert answer.status == 401, path
                assert (await answer.json())["code"] == "unauthorized"


async def test_operators_are_answered_in_an_overload(
    operate: Operate, sandbox: RunningSandbox, until: Until
) -> None:
    """Requests of other domains take no place of theirs."""
    sandbox.sandbox.faults = always("hang")
    operator = await operate(server={"max_in_flight": 1})
    waiting = asyncio.create_task(operator.service.get("/usage"))
    await until(lambda: sandbox.sandbox.calls.total() == 1)
    assert await operator.code("/usage") == "overloaded"

    state = await operator.state()

    assert state["is_refreshing"]
    assert state["in_flight"]["usage"] == 1
    waiting.cancel()


async def test_a_wait_of_an_endpoint_is_shown_and_ended(
    operator: Operator, sandbox: RunningSandbox
) -> None:
    """The state has when the messages may be fetched; `auto` permits it at once."""
    sandbox.sandbox.faults = always("unavailable", times=1, retry_after="3600")
    assert await operator.code("/usage") == "messages_unavailable"
    assert await operator.code("/usage") == "messages_unavailable"
    circuit = (await operator.state())["circuits"]["copilot"]
    assert circuit["state"] == "closed"
    assert circuit["blocked_endpoints"].keys() == {"/messages/current-period"}

    await operator.post("circuit/copilot", json={"state": "auto"})

    assert await operator.code("/usage") is None
    assert "blocked_endpoints" not in (await operator.state())["circuits"]["copilot"]
