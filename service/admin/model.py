"""The orders of an operator, and what each worker answers.

They are the bodies of the API, and what the workers send each other.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

Level = Literal["debug", "info", "warning", "error"]


Result = Literal["refreshed", "unchanged", "failed", "running"]


class LevelOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """The lowest level to log, for some seconds or until the next start."""

    level: Level
    for_s: Annotated[float, Meta(gt=0, le=86_400)] | None = None


class CircuitOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """The state to keep a circuit in; `auto` gives it back to its own judgement."""

    state: Literal["open", "close", "auto"]


class NamedCircuitOrder(Struct, frozen=True):
    """The same with the name of the circuit, for other workers."""

    name: str
    order: CircuitOrder


class RefreshOrder(Struct, frozen=True):
    """Fetch the period alone, or adopt what another process has shared."""

    wait_s: float
    is_alone: bool = True


class SchemasOrder(Struct, frozen=True):
    """Check the schemas of events, or use those of a revision that was checked."""

    use: str | None = None


class StateOrder(Struct, frozen=True):
    """A request for the state."""


class Refreshed(Struct, frozen=True, kw_only=True):
    """The outcome of a refresh in one worker."""

    pid: int
    outcome: Result
    duration_s: float
    error: str | None
    """The class of the error of a failed refresh; the log has its text."""
    snapshot: "SnapshotState | None"
    """The cached period, also after a failure."""


class SchemasRead(Struct, frozen=True, kw_only=True):
    """The schemas of events in one worker."""

    pid: int
    types: int
    """The number of types that have a schema."""
    revision: str | None
    error: str | None
    """Why the schemas are refused, or null."""


class LevelSet(Struct, frozen=True):
    """The level of one worker."""

    pid: int
    level: Level
    until: str | None
    """When the level of the settings returns."""


class CircuitState(Struct, frozen=True):
    """The state of one circuit."""

    state: str
    is_forced: bool
    """Set by an operator."""
    until: str | None
    """When an open circuit permits calls again, unless an operator keeps it open."""
    blocked_endpoints: dict[str, str] | UnsetType = UNSET
    """Endpoints that a `Retry-After` has closed, and when they permit calls again."""


class CircuitSet(Struct, frozen=True):
    """A circuit of one worker."""

    pid: int
    name: str
    circuit: CircuitState


class SnapshotState(Struct, frozen=True, kw_only=True):
    """The cached period."""

    revision: str
    plan: str
    messages: int
    credits_total: float
    age_s: float
    is_servable: bool
    """Young enough to be served if refreshes fail."""


class RefreshFailure(Struct, frozen=True):
    """The last refresh that has failed."""

    at: str
    error: str


class LaneState(Struct, frozen=True, kw_only=True):
    """A lane: its requests, its bounds, and how many it has refused."""

    running: int
    waiting: int
    refused: int
    concurrency: int
    max_queue: int


class PoolState(Struct, frozen=True, kw_only=True):
    """The connections to the database for one use."""

    size: int
    in_use: int
    waiting: int


class Backlog(Struct, frozen=True):
    """Events that wait to be written, and the bytes of their bodies."""

    events: int
    bytes: int


class LogQueue(Struct, frozen=True):
    """Lines that wait to be written, and those that were dropped."""

    bytes: int
    dropped: int


class Memory(Struct, frozen=True):
    """Memory of the process; `resident_bytes` is unknown without `/proc`."""

    resident_bytes: int | None
    peak_bytes: int


class WorkerState(Struct, frozen=True, kw_only=True):
    """The state of one worker."""

    pid: int
    version: str
    started_at: str
    uptime_s: float
    is_draining: bool
    snapshot: SnapshotState | None
    is_refreshing: bool
    last_failure: RefreshFailure | None
    circuits: dict[str, CircuitState]
    lanes: dict[str, LaneState]
    pools: dict[str, PoolState]
    backlog: Backlog | None
    log_level: Level
    log_queue: LogQueue
    connections: int
    in_flight: dict[str, int]
    """Requests in flight by domain."""
    memory: Memory


class State(Struct, frozen=True):
    """The state of all workers."""

    workers: list[WorkerState]
    unreachable: list[int]
    """Process ids of workers that have not answered in time."""


class Refreshes(Struct, frozen=True):
    """The outcome of a refresh in all workers."""

    workers: list[Refreshed]
    unreachable: list[int]


class Levels(Struct, frozen=True):
    """The level of all workers."""

    workers: list[LevelSet]
    unreachable: list[int]


class Schemas(Struct, frozen=True):
    """The schemas of all workers."""

    workers: list[SchemasRead]
    unreachable: list[int]


class Circuits(Struct, frozen=True):
    """One circuit of all workers."""

    workers: list[CircuitSet]
    unreachable: list[int]
