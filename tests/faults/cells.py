"""The cells of the fault matrix, and the expected outcome of each.

`test_matrix.py` compares the service with `TABLE`, cell by cell over sockets.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from service.sandbox.faults import MESSAGES_PATH
from tests.conftest import message, report
from tests.reference import text_rules

TABLE: Final = """
fault             seen as            tries  messages               reports               new-reports    text-instead
                                            cold fresh stale exp.  cold fresh stale exp. stale exp.     cold stale
not-found         404                1      503  hit   old   503   text hit   text  text text  text     text text
too-many-requests 429                1      503  hit   old   503   503  hit   copy  copy old   503      less less
server-error      500                2      503  hit   old   503   503  hit   copy  copy old   503      less less
unavailable       503                1      503  hit   old   503   503  hit   copy  copy old   503      less less
reset             ConnectionDropped  2      503  hit   old   503   503  hit   copy  copy old   503      less less
hang              TryTimedOut        2      503  hit   old   503   503  hit   copy  copy old   503      less less
slow-drip         TryTimedOut        2      503  hit   old   503   503  hit   copy  copy old   503      less less
truncated         MalformedBody      2      503  hit   old   503   503  hit   copy  copy old   503      less less
wrong-type        ContractBroken     1      503  hit   old   503   503  hit   copy  copy old   503      less less
missing-field     ContractBroken     1      503  hit   old   503   503  hit   copy  copy old   503      less less
html              MalformedBody      2      503  hit   old   503   503  hit   copy  copy old   503      less less
gzip-bomb         BodyTooLarge       1      503  hit   old   503   503  hit   copy  copy old   503      less less
redirect          302                1      503  hit   old   503   503  hit   copy  copy old   503      less less
huge-body         BodyTooLarge       1      503  hit   old   503   503  hit   copy  copy old   503      less less
"""  # noqa: E501 - one line a fault
"""Outcomes of a request for `/usage`, by the fault of all calls of a kind.

- `hit`   the fresh cached answer, without a call to the upstream
- `old`   the stale cached answer, because the refresh failed
- `copy`  the bill now, with the report priced by its last valid copy
- `text`  the bill now, priced by text because the report does not exist
- `less`  as `text`, because the report is unavailable; counted in `Usage-Degraded`
- `503`   a problem document: the refresh failed, and no cached answer is young enough
"""

TTL_S: Final = 60
STALE_IF_ERROR_S: Final = 600
AGES_S: Final = {"cold": None, "fresh": 30, "stale": 300, "expired": 700}
"""Age of the cached answer in each state."""

TRY_S: Final = 10.0
DEADLINE_S: Final = 60.0
ENDLESS: Final = frozenset({"hang", "slow-drip"})
"""Faults that only the time-out of a try ends."""

MAX_WAIT_S: Final = 2 * DEADLINE_S
"""Clients wait until a refresh ends, so they see its outcome."""
UNREADABLE: Final = "MessagesUnavailable"
"""The logged error of messages that break the contract: no try failed."""

RETRY_AFTER: Final = {"too-many-requests": "7", "unavailable": "7"}
DEFAULT_RETRY_AFTER: Final = "2"


class Target(NamedTuple):
    """The calls that get the fault, and the states of the service."""

    title: str
    path: str
    states: tuple[str, ...]
    code: str = "report_unavailable"
    is_new: bool = False
    """True if the report was never requested before."""
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


class Outcome(NamedTuple):
    """The outcome of one request: for the client, the upstream and the log."""

    status: int
    code: str | None
    bill: str | None
    """The name of the bill in `bills`; "wrong" for any other."""
    headers: dict[str, str]
    """The `STATE_HEADERS` of the answer."""
    tries: int
    """Calls of the target's path."""
    failure: str | None
    """The logged failure of the first try."""
    events: tuple[str, ...]
    """The logged events, without the steps of prices."""


FAILURES: Final = frozenset({"report.failed", "usage.refresh.failed"})
STATE_HEADERS: Final = ("Age", "Cache-Status", "Retry-After", "Usage-Degraded")

LEASE: Final = report(7, "Short Lease Report", 61)
TENANTS: Final = report(8, "Tenant Obligations Report", 79)
OLD: Final = [message(1, "Is it?", report_id=7), message(2, "rent rent")]
NEW: Final = message(3, "What is the rent?")


def messages_now(target: Target) -> list[dict[str, object]]:
    """Return the messages during the fault: one more than before."""
    return [*OLD, NEW | ({"report_id": 8} if target.is_new else {})]


def bills(target: Target) -> dict[bytes, str]:
    """Return the names of all correct bills, by their bytes."""
    known = {7: LEASE, 8: TENANTS}
    missing = {8} if target.is_new else {7}
    others = {key: each for key, each in known.items() if key not in missing}
    now = messages_now(target)
    return {
        bill_of(now, others): "now, the report's messages by text",
        bill_of(now, known): "now",
        bill_of(OLD, known): "before",
    }


def bill_of(
    messages: list[dict[str, object]], reports: Mapping[int, Mapping[str, object]]
) -> bytes:
    """Return the answer of the reference implementation."""
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


def read_table() -> Iterator[tuple[Cell, Outcome]]:
    """Yield every cell of `TABLE` with its expected outcome."""
    for line in TABLE.splitlines()[3:]:
        fault, failure, tries, *outcomes = line.split()
        cells = [
            Cell(fault, name, state)
            for name, target in TARGETS.items()
            for state in target.states
        ]
        for cell, outcome in zip(cells, outcomes, strict=True):
            yield cell, _expected(cell, outcome, failure, int(tries))


def _expected(cell: Cell, outcome: str, failure: str, tries: int) -> Outcome:
    target = TARGETS[cell.target]
    if failure == "ContractBroken" and cell.target == "messages":
        failure = UNREADABLE
    if outcome == "hit":
        return Outcome(200, None, "before", _cached(30), 0, None, ("http.request",))
    events = tuple(_events(cell, outcome, tries))
    if outcome == "503":
        headers = {"Retry-After": RETRY_AFTER.get(cell.fault, DEFAULT_RETRY_AFTER)}
        return Outcome(503, target.code, None, headers, tries, failure, events)
    if outcome == "old":
        return Outcome(200, None, "before", _cached(300), tries, failure, events)
    bill = "now" if outcome == "copy" else "now, the report's messages by text"
    forward = "miss" if cell.state == "cold" else "stale"
    headers = {"Age": "0", "Cache-Status": f"copilot-usage; fwd={forward}; stored"}
    if outcome == "less":
        headers["Usage-Degraded"] = "1"
    return Outcome(200, None, bill, headers, tries, failure, events)


def _cached(age_s: int) -> dict[str, str]:
    ttl_s = TTL_S - age_s
    detail = "; detail=stale" if ttl_s <= 0 else ""
    status = f"copilot-usage; hit; ttl={ttl_s}{detail}"
    return {"Age": str(age_s), "Cache-Status": status}


def _events(cell: Cell, outcome: str, tries: int) -> Iterator[str]:
    yield "usage.refresh.started"
    if cell.target != "messages":
        yield "upstream.request"  # the messages
    if TARGETS[cell.target].is_new:
        yield from REPORT_OF_OLD[cell.state]
    yield "upstream.request"
    if cell.fault in RETRY_AFTER:  # longer than a call waits
        yield "upstream.breaker.held"
        yield "upstream.retry_refused"
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
"""Events of the report of the old messages: requested, or cached."""
