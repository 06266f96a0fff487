"""The matrix of faults: what callers get of each fault, in each state of what is held.

`TABLE` says it; `test_matrix.py` holds the service to it, cell by cell over sockets,
and docs/fault-matrix.md is made of it. `python -m tests.faults.matrix` prints the same
page as run just now.
"""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from itertools import groupby
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import msgspec
from aiohttp import ClientResponse, ClientSession
from structlog.testing import capture_logs
from structlog.typing import EventDict

from service.app import create_app
from service.sandbox.faults import MESSAGES_PATH
from service.sandbox.options import SandboxOptions
from service.sandbox.server import RunningSandbox, running_sandbox
from service.serving import listening
from service.settings import Settings, load
from service.usage.cache import SnapshotCache
from tests.clock import Clock, passing_loop_time
from tests.conftest import always, message, report
from tests.reference import text_rules

TABLE: Final = """
fault             seen as            tries  messages               reports               new-reports    text-instead
                                            cold fresh stale exp.  cold fresh stale exp. stale exp.     cold stale
not-found         404                1      503  held  old   503   text held  text  text text  text     text text
too-many-requests 429                2      503  held  old   503   503  held  copy  copy old   503      less less
server-error      500                2      503  held  old   503   503  held  copy  copy old   503      less less
unavailable       503                2      503  held  old   503   503  held  copy  copy old   503      less less
reset             ConnectionDropped  2      503  held  old   503   503  held  copy  copy old   503      less less
hang              TryTimedOut        2      503  held  old   503   503  held  copy  copy old   503      less less
slow-drip         TryTimedOut        2      503  held  old   503   503  held  copy  copy old   503      less less
truncated         MalformedBody      2      503  held  old   503   503  held  copy  copy old   503      less less
wrong-type        ContractBroken     1      503  held  old   503   503  held  copy  copy old   503      less less
missing-field     ContractBroken     1      503  held  old   503   503  held  copy  copy old   503      less less
html              MalformedBody      2      503  held  old   503   503  held  copy  copy old   503      less less
gzip-bomb         BodyTooLarge       1      503  held  old   503   503  held  copy  copy old   503      less less
redirect          302                1      503  held  old   503   503  held  copy  copy old   503      less less
huge-body         BodyTooLarge       1      503  held  old   503   503  held  copy  copy old   503      less less
"""  # noqa: E501 - one line a fault
"""What becomes of a request for `/usage`, by the fault that all calls of a kind meet.

- `held`  the answer held, which is fresh: upstream is not asked
- `old`   the answer held, though it is stale: the refresh has failed
- `copy`  the bill as it is now, the report priced by the last good copy of it
- `text`  the bill as it is now: there is no such report, so the text is priced
- `less`  the same for want of the report, and counted in `Usage-Degraded`
- `503`   a problem document: the refresh has failed, and nothing young enough is held
"""

TTL_S: Final = 60
STALE_IF_ERROR_S: Final = 600
AGES_S: Final = {"cold": None, "fresh": 30, "stale": 300, "expired": 700}
"""How old the held answer is: none, within the time to live, after, and after all."""

TRY_S: Final = 10.0
DEADLINE_S: Final = 60.0
ENDLESS: Final = frozenset({"hang", "slow-drip"})
"""Faults that only the time-out of a try ends: its time passes when it is sent."""

MAX_WAIT_S: Final = 2 * DEADLINE_S
"""Callers wait for a refresh to its end, so that they see its outcome."""
UNREADABLE: Final = "MessagesUnavailable"
"""How the log names messages that break the contract: no try of a call has failed."""

RETRY_AFTER: Final = {"too-many-requests": "7", "unavailable": "7"}
DEFAULT_RETRY_AFTER: Final = "2"


class Target(NamedTuple):
    """What a fault strikes, and in which states of the service."""

    title: str
    path: str
    states: tuple[str, ...]
    code: str = "report_unavailable"
    is_new: bool = False
    """The report is one that was never asked for."""
    on_report_error: str = "fail"


TARGETS: Final = {
    "messages": Target(
        "The messages", MESSAGES_PATH, tuple(AGES_S), "messages_unavailable"
    ),
    "reports": Target("A report that was fetched before", "/reports/7", tuple(AGES_S)),
    "new-reports": Target(
        "A new report", "/reports/8", ("stale", "expired"), is_new=True
    ),
    "text-instead": Target(
        'A new report, with `on_report_error = "text"`',
        "/reports/8",
        ("cold", "stale"),
        is_new=True,
        on_report_error="text",
    ),
}


class Cell(NamedTuple):
    """One fault, on one target, in one state."""

    fault: str
    target: str
    state: str

    @property
    def id(self) -> str:
        return f"{self.fault}-{self.state}-{self.target}"


class Seen(NamedTuple):
    """What a caller, upstream and the log's reader have seen of one request."""

    status: int
    code: str | None
    bill: str | None
    """Which of `BILLS` was sent; "wrong" if it was none."""
    headers: dict[str, str]
    """Those of `TELLING` that the answer has."""
    tries: int
    """Calls of the target's path."""
    failure: str | None
    """How the log tells the first of them."""
    events: tuple[str, ...]
    """What was logged, but for the steps of prices."""


FAILURES: Final = frozenset({"report.failed", "usage.refresh.failed"})
TELLING: Final = ("Age", "Cache-Status", "Retry-After", "Usage-Degraded")

# --- the period, before and now -----------------------------------------------------

LEASE: Final = report(7, "Short Lease Report", 61)
TENANTS: Final = report(8, "Tenant Obligations Report", 79)
OLD: Final = [message(1, "Is it?", report_id=7), message(2, "rent rent")]
NEW: Final = message(3, "What is the rent?")


def messages_now(target: Target) -> list[dict[str, object]]:
    """What upstream tells when the fault strikes: it has one message more."""
    return [*OLD, NEW | ({"report_id": 8} if target.is_new else {})]


def bills(target: Target) -> dict[bytes, str]:
    """Every right bill, by its bytes; no other may ever be sent."""
    known = {7: LEASE, 8: TENANTS}
    lost = {8} if target.is_new else {7}
    rest = {key: each for key, each in known.items() if key not in lost}
    now = messages_now(target)
    return {
        bill_of(now, rest): "now, the report's messages by text",
        bill_of(now, known): "now",
        bill_of(OLD, known): "before",
    }


def bill_of(
    messages: list[dict[str, object]], reports: Mapping[int, Mapping[str, object]]
) -> bytes:
    """The contract's answer, by the reference."""
    return msgspec.json.encode({"usage": [_item(each, reports) for each in messages]})


def _item(
    sent: Mapping[str, Any], reports: Mapping[int, Mapping[str, Any]]
) -> dict[str, object]:
    item = {"message_id": sent["id"], "timestamp": sent["timestamp"]}
    found = reports.get(sent.get("report_id", 0))
    if found is None:
        return {**item, "credits_used": text_rules(sent["text"])[-1].total / 100}
    cost = float(found["credit_cost"])
    return {**item, "report_name": found["name"], "credits_used": cost}


# --- what has to be seen ------------------------------------------------------------


def read_table() -> Iterator[tuple[Cell, Seen]]:
    """Every cell of `TABLE`, with what has to be seen in it."""
    for line in TABLE.splitlines()[3:]:
        fault, failure, tries, *outcomes = line.split()
        cells = [
            Cell(fault, name, state)
            for name, target in TARGETS.items()
            for state in target.states
        ]
        for cell, outcome in zip(cells, outcomes, strict=True):
            yield cell, _expected(cell, outcome, failure, int(tries))


def _expected(cell: Cell, outcome: str, failure: str, tries: int) -> Seen:
    target = TARGETS[cell.target]
    if failure == "ContractBroken" and cell.target == "messages":
        failure = UNREADABLE
    if outcome == "held":
        return Seen(200, None, "before", _held(30), 0, None, ("http.request",))
    events = tuple(_events(cell, outcome, tries))
    if outcome == "503":
        headers = {"Retry-After": RETRY_AFTER.get(cell.fault, DEFAULT_RETRY_AFTER)}
        return Seen(503, target.code, None, headers, tries, failure, events)
    if outcome == "old":
        return Seen(200, None, "before", _held(300), tries, failure, events)
    bill = "now" if outcome == "copy" else "now, the report's messages by text"
    forward = "miss" if cell.state == "cold" else "stale"
    headers = {"Age": "0", "Cache-Status": f"copilot-usage; fwd={forward}; stored"}
    if outcome == "less":
        headers["Usage-Degraded"] = "1"
    return Seen(200, None, bill, headers, tries, failure, events)


def _held(age_s: int) -> dict[str, str]:
    left_s = TTL_S - age_s
    detail = "; detail=stale" if left_s <= 0 else ""
    status = f"copilot-usage; hit; ttl={left_s}{detail}"
    return {"Age": str(age_s), "Cache-Status": status}


def _events(cell: Cell, outcome: str, tries: int) -> Iterator[str]:
    yield "usage.refresh.started"
    if cell.target != "messages":
        yield "upstream.request"  # the messages
    if TARGETS[cell.target].is_new:
        yield from REPORT_OF_OLD[cell.state]
    yield "upstream.request"
    for _ in range(tries - 1):
        yield "upstream.retry"
        yield "upstream.request"
    if cell.target != "messages":
        yield "report.missing" if outcome == "text" else "report.failed"
    is_failed = outcome in {"503", "old"}
    yield "usage.refresh.failed" if is_failed else "usage.refresh.finished"
    yield "http.request"


REPORT_OF_OLD: Final = {
    "cold": ("upstream.request", "report.resolved"),
    "stale": ("report.resolved",),
    "expired": ("report.resolved",),
}
"""The report of the old messages is asked for, or known from then."""

# --- running a cell -----------------------------------------------------------------


async def run(cell: Cell) -> Seen:
    """Bring a service into the cell's state, let the fault strike, and ask once."""
    target, clock = TARGETS[cell.target], Clock()
    async with running_sandbox(SandboxOptions(messages=0, reports=0)) as upstream:
        tell(upstream, OLD)
        made = settings_for(cell, upstream.url)
        async with serving(made, clock) as service:
            age_s = AGES_S[cell.state]
            if age_s is not None:
                await (await service.get("/usage")).read()
                clock.pass_s(age_s)
            tell(upstream, messages_now(target))
            strike(upstream, cell)
            async with ending_tries(upstream, cell):
                return await ask(service, upstream, target)


@asynccontextmanager
async def ending_tries(upstream: RunningSandbox, cell: Cell) -> AsyncIterator[None]:
    """Let each try that would never end run out of time when upstream has it."""
    if cell.fault not in ENDLESS:
        yield
        return
    calls, path = upstream.sandbox.calls, TARGETS[cell.target].path
    with passing_loop_time() as time:
        async with time.passing(TRY_S, at_each=lambda: calls[path]):
            yield


def settings_for(cell: Cell, url: str) -> Settings:
    """No waits; only reports that are new are asked for where a cell is of those."""
    target = TARGETS[cell.target]
    options: dict[str, dict[str, Any]] = {
        "server": {"port": 0, "drain_s": 0.0},
        "upstream": {
            "base_url": url,
            "attempts": 2,
            "concurrency": 1,
            "backoff_base_s": 0.0,
            "retry_after_max_s": 0.0,
            "timeout_s": TRY_S,
            "deadline_s": DEADLINE_S,
            "max_body_bytes": 100_000,
        },
        "usage": {"on_report_error": target.on_report_error},
        "events": {"enabled": False},
        "cache": {
            "ttl_s": TTL_S,
            "stale_while_revalidate_s": 0,
            "stale_if_error_s": STALE_IF_ERROR_S,
            "stale_wait_s": MAX_WAIT_S,
            "report_ttl_s": 86_400.0 if target.is_new else 0.0,
        },
    }
    return load(options=options).settings


@asynccontextmanager
async def serving(settings: Settings, clock: Clock) -> AsyncIterator[ClientSession]:
    """A caller of the service, which runs as it is deployed, but for its clock."""
    driven = functools.partial(SnapshotCache, clock=clock)
    with patch("service.app.SnapshotCache", driven):
        async with (
            listening(create_app(settings), settings.server) as url,
            ClientSession(url) as session,
        ):
            yield session


def tell(upstream: RunningSandbox, messages: list[dict[str, object]]) -> None:
    """Let upstream be well, and have these messages."""
    upstream.sandbox.set_messages(messages)
    upstream.sandbox.set_report(7, LEASE)
    upstream.sandbox.set_report(8, TENANTS)


def strike(upstream: RunningSandbox, cell: Cell) -> None:
    """Spoil every call of the cell's target from now on, and count anew."""
    upstream.sandbox.faults = always(
        cell.fault.replace("-", "_"),
        path=TARGETS[cell.target].path,
        retry_after=RETRY_AFTER.get(cell.fault, ""),
    )
    upstream.sandbox.calls.clear()


async def ask(service: ClientSession, upstream: RunningSandbox, target: Target) -> Seen:
    """One request, and all that is to be seen of it."""
    with capture_logs() as entries:
        response = await service.get("/usage")
        body = await response.read()
    tries = [each for each in entries if each.get("url.path") == target.path]
    status = response.status
    return Seen(
        status=status,
        code=None if status == 200 else msgspec.json.decode(body)["code"],
        bill=bills(target).get(body, "wrong") if status == 200 else None,
        headers=telling(response),
        tries=upstream.sandbox.calls[target.path],
        failure=failure_in(entries, tries[0]) if tries else None,
        events=tuple(
            each["event"]
            for each in entries
            if not each["event"].startswith("credits.")
        ),
    )


def telling(response: ClientResponse) -> dict[str, str]:
    """The headers that tell how an answer stands."""
    return {
        name: response.headers[name] for name in TELLING if name in response.headers
    }


def failure_in(entries: list[EventDict], first_try: EventDict) -> str:
    """How the log names the failure of a try, or of decoding its body."""
    status = first_try.get("http.response.status_code")
    if status != HTTPStatus.OK:
        return str(first_try.get("error.type", status))
    failed = [each for each in entries if each["event"] in FAILURES]
    return str(failed[0]["error.type"])


# --- the page -----------------------------------------------------------------------

PREFACE: Final = f"""# Fault matrix

This page lists what a caller of `GET /usage` gets when the upstream fails. It depends
on the fault, on the call that fails, and on the age of the cached answer.

A test checks each cell over sockets. `.venv/bin/python -m tests.faults.matrix` runs all
of them and prints this page from the results. Its table is `tests/faults/matrix.py`.

| column | meaning |
| --- | --- |
| seen as | how the log names the failure: a status, or an `error.type` |
| tries | tries of the failing call; the service is set to two at most |
| cold | no answer is cached |
| fresh | the cached answer is {AGES_S["fresh"]} s old |
| stale | the cached answer is {AGES_S["stale"]} s old |
| expired | the cached answer is {AGES_S["expired"]} s old |

The settings are `ttl_s = {TTL_S}`, `stale_while_revalidate_s = 0` and
`stale_if_error_s = {STALE_IF_ERROR_S}`. With `stale_wait_s = {MAX_WAIT_S:g}`, a caller
waits until the refresh has ended; as shipped, one that hangs is not waited for, and
the stale answer is the bill before. After the answer was cached, the upstream has
received another message. The bill *before* is the cached one, and the bill *now*
includes that message. Each cell also has the headers that describe the answer.
"""


EVENTS: Final = """\
## Log events

The events appear in this order; the steps of prices are omitted. With two tries,
`upstream.retry` and another `upstream.request` follow the first `upstream.request`.
"""

CACHE: Final = "copilot-usage;"
"""How `Cache-Status` begins; the page leaves it out."""


def render(seen: Mapping[Cell, Seen]) -> str:
    """The page, from what was or has to be seen in each cell."""
    sections = [
        _render_target(name, {c: each for c, each in seen.items() if c.target == name})
        for name in TARGETS
    ]
    return "\n".join([PREFACE, *sections, _render_events(seen)])


def _render_target(name: str, seen: Mapping[Cell, Seen]) -> str:
    target = TARGETS[name]
    head = ["fault", "seen as", "tries", *target.states]
    lines = [f"## {target.title}\n", _row(head), _row(["---"] * len(head))]
    for fault, cells in groupby(seen, key=lambda cell: cell.fault):
        row = [seen[cell] for cell in cells]
        struck = next(each for each in row if each.failure)
        told = [fault, f"`{struck.failure}`", str(struck.tries)]
        lines.append(_row([*told, *map(_describe, row)]))
    return "\n".join(lines) + "\n"


def _render_events(seen: Mapping[Cell, Seen]) -> str:
    sequences: dict[str, list[str]] = {}
    for cell, each in seen.items():
        events = " ".join(each.events).replace(" upstream.retry upstream.request", "")
        shown = " → ".join(f"`{event}`" for event in events.split())
        what = f"{each.status}, {cell.state}, {cell.target}"
        if what not in sequences.setdefault(shown, []):
            sequences[shown].append(what)
    rows = [_row(["<br>".join(what), shown]) for shown, what in sequences.items()]
    head = [_row(["answer, state, failing call", "events"]), _row(["---", "---"])]
    return "\n".join([EVENTS, *head, *rows]) + "\n"


def _describe(seen: Seen) -> str:
    what = f"`{seen.code}`" if seen.code else f"the bill {seen.bill}"
    headers = [f"`{name}: {value}`" for name, value in seen.headers.items()]
    return ", ".join([f"**{seen.status}** {what}", *headers]).replace(CACHE, "…;")


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


async def _run_all() -> dict[Cell, Seen]:
    with capture_logs():
        return {cell: await run(cell) for cell, _ in read_table()}


if __name__ == "__main__":
    sys.stdout.write(render(asyncio.run(_run_all())))
