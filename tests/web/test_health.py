"""Health: liveness, readiness of the process and of each domain, and the warm-up."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from service.events.ingest import Ingest
from service.events.receiving import COLLECTOR
from service.keys.handlers import DATABASE
from service.sandbox.options import Faults, SandboxOptions
from service.sandbox.server import RunningSandbox, running_sandbox
from service.upstream.errors import Unreachable
from service.usage import readiness
from service.usage.handlers import SNAPSHOTS
from service.vehicles.handlers import LOOKUPS
from service.web.health import TRAFFIC
from tests.conftest import Client, MakeClient, always, message
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import Running, ask_once, exit_status, running, until

CACHED: Final = {"ttl_s": 3_600.0}
BY_USAGE: Final = "/health/ready?for=usage"

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.mark.parametrize("status", ["live", "ready"])
async def test_health_does_not_depend_on_the_upstream(
    client: MakeClient, status: str
) -> None:
    """Health does not depend on the upstream, and is never cached."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    service = await client(upstream={"base_url": nowhere})
    response = await service.get(f"/health/{status}")

    assert response.status == 200
    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert await response.read() == b'{"status":"%s"}' % status.encode()


async def test_a_draining_process_is_not_ready(client: MakeClient) -> None:
    """While draining it lives and answers, but asks for no new requests."""
    service = await client()
    assert service.app is not None
    service.app[TRAFFIC].is_draining = True

    response = await service.get("/health/ready")

    assert response.status == 503
    assert (await response.json())["code"] == "not_ready"
    assert response.headers["Cache-Control"] == "no-store"
    assert (await service.get("/health/live")).status == 200
    assert (await service.get("/")).status == 200


# --- readiness ----------------------------------------------------------------------


async def reason(service: Client, path: str = "/health/ready") -> str | None:
    """Return why a probe fails; None if it succeeds."""
    answer = await service.get(path)
    problem = await answer.json()
    if answer.status == 200:
        assert problem == {"status": "ready"}
        return None
    assert (answer.status, problem["code"]) == (503, "not_ready")
    # A domain that is not ready does not keep the process from new requests.
    assert problem["title"] == "The process or the domain is not ready"
    assert int(answer.headers["Retry-After"]) >= 1
    return str(problem["detail"])


async def test_a_failed_first_try_is_enough_for_the_process(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """Probes share one try, after which only usage is unready, until it recovers."""
    sandbox.sandbox.faults = always("server_error")
    service = await client(cache=CACHED, upstream={"attempts": 1})
    assert sandbox.sandbox.calls == {}

    plain = await asyncio.gather(*(reason(service) for _ in range(20)))
    by_usage = [await reason(service, BY_USAGE) for _ in range(20)]

    assert set(plain) == {None}
    assert all(each and readiness.NO_SNAPSHOT in each for each in by_usage)
    assert sandbox.sandbox.calls.total() == 1
    sandbox.sandbox.faults = Faults()
    sandbox.sandbox.set_messages([message(1)])
    assert (await service.get("/usage")).status == 200
    assert await reason(service, BY_USAGE) is None


async def test_a_probe_gets_a_snapshot_without_requests(
    client: MakeClient, sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pause, a probe that needs a snapshot tries again: nobody else would."""
    sandbox.sandbox.faults = always("server_error", times=1)
    sandbox.sandbox.set_messages([message(1)])
    strict = {"require_snapshot": True}
    service = await client(cache=CACHED, upstream={"attempts": 1}, health=strict)
    assert readiness.NO_SNAPSHOT in (await reason(service) or "")
    assert readiness.NO_SNAPSHOT in (await reason(service) or "")

    monkeypatch.setattr(readiness, "PROBE_PAUSE_S", 0.0)

    assert await reason(service) is None
    assert await reason(service, BY_USAGE) is None
    assert sandbox.sandbox.calls.total() == 2


async def test_an_old_snapshot_is_servable_within_its_time(
    client: MakeClient, sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale snapshot makes usage ready; one past `stale_if_error_s` does not."""
    monkeypatch.setattr(readiness, "PROBE_PAUSE_S", 0.0)
    sandbox.sandbox.set_messages([message(1)])
    service = await client(
        cache={"ttl_s": 1.0, "stale_if_error_s": 10.0}, upstream={"attempts": 1}
    )
    assert (await service.get("/usage")).status == 200
    sandbox.sandbox.faults = always("server_error")
    assert service.app is not None
    snapshots = service.app[SNAPSHOTS]
    now = snapshots.clock()

    monkeypatch.setattr(snapshots, "clock", lambda: now + 5.0)
    assert await reason(service, BY_USAGE) is None
    monkeypatch.setattr(snapshots, "clock", lambda: now + 20.0)
    assert readiness.TOO_OLD in (await reason(service, BY_USAGE) or "")
    assert await reason(service) is None


async def test_nothing_cached_is_ready_after_a_success(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """If the settings cache nothing, a refresh that has just succeeded is enough."""
    sandbox.sandbox.set_messages([message(1)])

    assert await reason(await client(), BY_USAGE) is None


async def test_a_probe_waits_for_a_short_time_only(
    client: MakeClient, sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first try runs, the process is warming up, and one call is made."""
    monkeypatch.setattr(readiness, "PROBE_WAIT_S", 0.0)
    sandbox.sandbox.faults = always("hang")
    service = await client(cache=CACHED)

    for path in ("/health/ready", BY_USAGE, "/health/ready"):
        assert "warming up" in (await reason(service, path) or "")
    assert sandbox.sandbox.calls.total() <= 1


async def test_each_domain_has_its_own_readiness(
    client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events need the database; vehicles need it, or vPIC; neither needs a snapshot."""
    stored = {"url": f"sqlite+aiosqlite:///{tmp_path}/events.db"}
    nowhere = {"base_url": f"http://127.0.0.1:{free_port()}"}
    on = {"enabled": True}
    service = await client(
        storage=stored, upstream=nowhere, events=on, vehicles=on | nowhere
    )
    by_events, by_vehicles = (
        f"/health/ready?for={each}" for each in ("events", "vehicles")
    )
    assert await reason(service, by_events) is None
    assert await reason(service, by_vehicles) is None
    assert service.app is not None
    collector, circuit = service.app[COLLECTOR], service.app[LOOKUPS].circuit
    database = service.app[DATABASE]
    assert circuit is not None

    for _ in range(3):
        database.breaker.timed_out()

    assert "database" in (await reason(service, by_events) or "")
    assert await reason(service, by_vehicles) is None
    for _ in range(20):
        with pytest.raises(Unreachable):
            async with circuit.guard():
                raise Unreachable("away")
    assert "vPIC" in (await reason(service, by_vehicles) or "")
    assert isinstance(collector._ingest, Ingest)
    collector._ingest.failure = "the writer of events has ended"
    assert "writer" in (await reason(service) or "")
    assert "writer" not in (await reason(service, BY_USAGE) or "")


@pytest.mark.parametrize(
    "domain, status, code",
    [
        ("events", 404, "domain_disabled"),
        ("pricing", 400, "invalid_parameter"),
        ("", 400, "invalid_parameter"),
    ],
)
async def test_other_domains_are_refused(
    client: MakeClient, domain: str, status: int, code: str
) -> None:
    """A probe with a typing error must not succeed."""
    answer = await (await client()).get("/health/ready", params={"for": domain})

    assert (answer.status, (await answer.json())["code"]) == (status, code)


# --- processes ----------------------------------------------------------------------


def warmed(log: Path, *options: str, **settings: object) -> Any:
    """Serve with the warm-up, which is off for most tests."""
    return running(log, *options, health__warm_up=True, **settings)


def finished(service: Running) -> int:
    """The number of refreshes that have ended."""
    events = ("usage.refresh.finished", "usage.refresh.failed")
    return sum(len(service.events(each)) for each in events)


@pytest.mark.parametrize("workers", [1, 2])
async def test_each_process_warms_up(workers: int, tmp_path: Path) -> None:
    """A period is cached before the first request, and after a reload too."""
    options = ("--workers", str(workers))
    with warmed(tmp_path / "log", *options, server__drain_s=0.0) as service:
        await until(lambda: finished(service) == workers)
        assert (await ask_once(service.port, BY_USAGE)).status == 200

        service.process.send_signal(signal.SIGHUP)

        await until(lambda: finished(service) == 2 * workers)
        service.process.send_signal(signal.SIGTERM)
        assert await exit_status(service.process) == 0
        assert service.events("http.request")[:-1] == []


async def test_a_fresh_process_is_not_ready_for_usage_in_an_outage(
    tmp_path: Path,
) -> None:
    """So a rolling deployment keeps the processes that have a snapshot."""
    async with running_sandbox(SandboxOptions(messages=3, reports=1)) as sandbox:
        sandbox.sandbox.faults = always("server_error")
        with warmed(
            tmp_path / "log",
            sandbox__enabled=False,
            upstream__base_url=sandbox.url,
            upstream__attempts=1,
        ) as service:
            await until(lambda: finished(service) == 1)

            statuses = [
                (await ask_once(service.port, path)).status
                for path in ("/health/ready", BY_USAGE, "/usage", "/health/live")
            ]

    assert statuses == [200, 503, 503, 200]


async def test_a_replacement_is_warm_before_it_accepts(tmp_path: Path) -> None:
    """After a reload in several workers, no request finds a worker without a period."""
    slow = {"sandbox__latency_ms": 200.0, "server__drain_s": 0.0}
    async with asyncio.timeout(GIVE_UP_S):
        with warmed(tmp_path / "log", "--workers", "2", **slow) as service:
            await until(lambda: finished(service) == 2)
            service.process.send_signal(signal.SIGHUP)
            await until(lambda: len(service.events("worker.exited")) == 2)

            assert finished(service) == 4
