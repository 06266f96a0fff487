"""The part of one worker in operation by hand: its state, and the effect of orders."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, assert_never

from service.admin import metrics, process
from service.admin.circuits import Circuit
from service.admin.errors import CircuitNotFound, NoSchemas
from service.admin.model import (
    Backlog,
    CircuitOrder,
    CircuitSet,
    LaneState,
    Level,
    LevelOrder,
    LevelSet,
    NamedCircuitOrder,
    PoolState,
    Refreshed,
    RefreshFailure,
    RefreshOrder,
    Result,
    SchemasOrder,
    SchemasRead,
    SnapshotState,
    StateOrder,
    WorkerState,
)
from service.admin.process import utc
from service.events.collector import Collector
from service.events.errors import SchemasRefused
from service.observability import logs
from service.storage.database import Database
from service.usage.cache import SnapshotCache
from service.usage.preparation import CachedSnapshot
from service.web.health import Traffic
from service.web.lanes import Lane
from service.web.limits import Limits
from service.web.system import VERSION

Order = StateOrder | RefreshOrder | LevelOrder | NamedCircuitOrder | SchemasOrder
Outcome = WorkerState | Refreshed | LevelSet | CircuitSet | SchemasRead


class Parts(NamedTuple):
    """The parts of the application that an operator sees and changes."""

    snapshots: SnapshotCache
    circuits: Mapping[str, Circuit]
    lanes: Sequence[Lane]
    traffic: Traffic
    limits: Limits
    database: Database | None
    collector: Collector | None


class Worker:
    """This process, as operators see it. Orders take effect in this process only."""

    def __init__(
        self,
        parts: Parts,
        level: Level,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.pid = os.getpid()
        self._parts = parts
        self._level = self._usual_level = level
        self._level_until: float | None = None
        self._level_timer: asyncio.TimerHandle | None = None
        self._clock = clock
        self._started_at = clock()
        metrics.circuits_begin(parts.circuits)

    @property
    def shares_snapshots(self) -> bool:
        """True if the processes share refreshes through Redis."""
        return self._parts.snapshots.is_shared

    async def perform(self, order: Order) -> Outcome:
        """Carry out an order, and return its outcome in this process.

        Raises `CircuitNotFound` and `NoSchemas`.
        """
        match order:
            case StateOrder():
                return self.state()
            case RefreshOrder():
                return await self.refresh(order)
            case LevelOrder():
                return self.set_level(order)
            case NamedCircuitOrder():
                return self.set_circuit(order.name, order.order)
            case SchemasOrder():
                return await self.read_schemas(order)
            case _:
                assert_never(order)

    def state(self) -> WorkerState:
        """Return the present state."""
        parts, snapshots = self._parts, self._parts.snapshots
        refreshing, failure = snapshots.refreshing, snapshots.failures.last
        return WorkerState(
            pid=self.pid,
            version=VERSION,
            started_at=utc(self._started_at),
            uptime_s=round(self._clock() - self._started_at, 3),
            is_draining=parts.traffic.is_draining,
            snapshot=self._snapshot(),
            is_refreshing=refreshing is not None,
            last_failure=failure and RefreshFailure(utc(failure.at), failure.error),
            circuits={name: each.state for name, each in parts.circuits.items()},
            lanes={
                each.name: LaneState(**each.state._asdict()) for each in parts.lanes
            },
            pools=self._pools(),
            backlog=self._backlog(),
            log_level=self._level,
            log_queue=process.log_queue(),
            connections=parts.traffic.count_connections(),
            in_flight=dict(parts.limits.in_flight),
            memory=process.memory(),
        )

    async def refresh(self, order: RefreshOrder) -> Refreshed:
        """Join the running refresh or start one, and wait for its end."""
        snapshots, started = self._parts.snapshots, time.monotonic()
        before = snapshots.current
        task = snapshots.start_refresh(is_alone=order.is_alone)
        await asyncio.wait([task], timeout=order.wait_s)
        outcome, error = _outcome_of(task, before, snapshots)
        if error is None and outcome != "running":
            await snapshots.wait_until_shared()
        return Refreshed(
            pid=self.pid,
            outcome=outcome,
            duration_s=round(time.monotonic() - started, 6),
            error=error,
            snapshot=self._snapshot(),
        )

    def set_level(self, order: LevelOrder) -> LevelSet:
        """Change the log level, for a while or for good."""
        if self._level_timer is not None:
            self._level_timer.cancel()
        self._level_timer = self._level_until = None
        self._apply_level(order.level)
        if order.for_s is not None:
            loop = asyncio.get_running_loop()
            self._level_until = self._clock() + order.for_s
            self._level_timer = loop.call_later(order.for_s, self._restore_level)
        until = self._level_until
        return LevelSet(self.pid, self._level, None if until is None else utc(until))

    def set_circuit(self, name: str, order: CircuitOrder) -> CircuitSet:
        """Force a circuit open or closed, or give it back; raise `CircuitNotFound`."""
        circuit = self.find_circuit(name)
        circuit.force(order.state)
        metrics.circuit_ordered(name, order.state)
        return CircuitSet(self.pid, name, circuit.state)

    async def read_schemas(self, order: SchemasOrder) -> SchemasRead:
        """Check the schemas of events, or use them; raises `NoSchemas`."""
        if self._parts.collector is None:
            raise NoSchemas("events.enabled is false")
        schemas = self._parts.collector.schemas
        try:
            if order.use is None:
                types = await schemas.check()
            else:
                schemas.use(order.use)
                types = schemas.current
        except SchemasRefused as error:
            return SchemasRead(pid=self.pid, types=0, revision=None, error=str(error))
        return SchemasRead(
            pid=self.pid, types=len(types), revision=types.revision, error=None
        )

    def find_circuit(self, name: str) -> Circuit:
        """Return a circuit; raises `CircuitNotFound`."""
        circuits = self._parts.circuits
        if name not in circuits:
            raise CircuitNotFound(f"known: {', '.join(circuits)}")
        return circuits[name]

    def close(self) -> None:
        """Restore the log level of the settings."""
        if self._level_timer is not None:
            self._level_timer.cancel()
        if self._level != self._usual_level:
            self._restore_level()

    def _apply_level(self, level: Level) -> None:
        self._level = level
        logs.set_level(level)

    def _restore_level(self) -> None:
        self._level_timer = self._level_until = None
        self._apply_level(self._usual_level)

    def _snapshot(self) -> SnapshotState | None:
        snapshots = self._parts.snapshots
        cached = snapshots.current
        if cached is None:
            return None
        summary = cached.snapshot.summary
        return SnapshotState(
            revision=cached.snapshot.revision,
            plan=summary.plan,
            messages=summary.messages,
            credits_total=summary.credits_total,
            age_s=round(snapshots.clock() - cached.fetched_at, 3),
            is_servable=snapshots.is_servable,
        )

    def _backlog(self) -> Backlog | None:
        collector = self._parts.collector
        return Backlog(*collector.backlog) if collector is not None else None

    def _pools(self) -> dict[str, PoolState]:
        database = self._parts.database
        if database is None:
            return {}
        return {name: PoolState(**each._asdict()) for name, each in database.pools()}


def _outcome_of(
    task: asyncio.Task[None],
    before: CachedSnapshot | None,
    snapshots: SnapshotCache,
) -> tuple[Result, str | None]:
    """Return the outcome of a refresh, and the class of its error."""
    if not task.done():
        return "running", None
    if task.cancelled():
        return "failed", "CancelledError"
    if (error := task.exception()) is not None:
        return "failed", type(error).__name__
    now = snapshots.current
    is_same = before and now and before.snapshot.revision == now.snapshot.revision
    return ("unchanged" if is_same else "refreshed"), None
