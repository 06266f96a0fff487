"""Problem documents: the kind of each error, and no internal details."""

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp import web

from service.admin import problems as admin_problems
from service.app import PROBLEM_KINDS as KINDS
from service.events import errors as events
from service.events import problems as events_problems
from service.keys import errors as keys
from service.keys import problems as keys_problems
from service.storage import errors as storage
from service.usage import errors as usage
from service.usage import problems as usage_problems
from service.usage.budgets import problems as budgets_problems
from service.usage.periods import errors as periods
from service.usage.periods import problems as periods_problems
from service.usage.snapshots import errors as snapshots
from service.vehicles import problems as vehicles_problems
from service.web import problems
from service.web.parameters import InvalidParameter
from service.web.problems import (
    ProblemKind,
    RequestProblem,
    answer_problem,
    kind_of,
)

CODES_PAGE = Path(__file__).parents[2] / "docs" / "codes.md"
ROW = re.compile(r"\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|")

MODULES = (
    problems,
    admin_problems,
    usage_problems,
    periods_problems,
    budgets_problems,
    events_problems,
    vehicles_problems,
    keys_problems,
)
ALL_KINDS = {
    kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, ProblemKind)
}
SECRET = "http://upstream.internal/reports/7"


class Unknown(Exception):
    """An error without a kind."""


@pytest.mark.parametrize(
    "error, code, status",
    [
        (snapshots.MessageNotFound(7), "message_not_found", 404),
        (snapshots.CursorExpired("gone"), "cursor_expired", 410),
        (usage.MessagesUnavailable(SECRET), "messages_unavailable", 503),
        (usage.ReportUnavailable(SECRET), "report_unavailable", 503),
        (usage.ShrinkUnconfirmed(SECRET), "messages_unavailable", 503),
        (usage.WorkerLost(SECRET), "period_lost", 503),
        (snapshots.RevisionGone(SECRET), "period_lost", 503),
        (snapshots.TextsMissing(SECRET), "period_lost", 503),
        (storage.Collided(SECRET), "storage_unavailable", 503),
        (web.HTTPBadRequest(), "request_refused", 400),
        (web.HTTPRequestEntityTooLarge(1, 2), "request_refused", 413),
        (usage.RefreshFailed(SECRET), "internal_error", 500),
        (web.HTTPBadGateway(text=SECRET), "internal_error", 500),
        (Unknown(SECRET), "internal_error", 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_becomes_a_problem(error: Exception, code: str, status: int) -> None:
    """Each error has its code and status, in a body of the one shape."""
    response = answer_problem(error, "some-id", KINDS)

    assert isinstance(response.body, bytes)
    body = json.loads(response.body)
    kind = kind_of(error, KINDS)
    assert response.status == status
    assert response.content_type == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    assert ("Retry-After" in response.headers) is (status == 503)
    assert body == {
        "type": f"urn:copilot-usage:problem:{code}",
        "title": kind.title,
        "status": status,
        "detail": body["detail"],
        "code": code,
        "request_id": "some-id",
    }
    assert "upstream.internal" not in response.body.decode()


@pytest.mark.parametrize(
    "error, detail",
    [
        (usage.UnknownPlan("x", ["a", "b"]), "unknown plan 'x'; known: a, b"),
        (snapshots.MessageNotFound(7), "the current period has no message 7"),
        (web.HTTPMethodNotAllowed("PUT", ["HEAD", "GET"]), "allowed: GET, HEAD"),
        (
            usage.MessagesUnavailable(SECRET),
            "nothing was charged or lost; try again after the time in Retry-After",
        ),
        (
            events.BacklogFull(SECRET),
            "nothing was stored; try again after the time in Retry-After",
        ),
        (
            storage.StorageUnavailable(SECRET),
            "nothing was lost; an event that is sent again is stored once"
            + problems.TRY_AGAIN,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_the_detail_describes_the_request(error: Exception, detail: str) -> None:
    """The detail names the cause in the request, and no internals."""
    body = answer_problem(error, "", KINDS).body

    assert isinstance(body, bytes)
    assert json.loads(body)["detail"] == detail


@pytest.mark.parametrize(
    "error",
    [
        InvalidParameter("x" * 5000, "unknown"),
        usage.UnknownPlan("x" * 5000, ["a"]),
        snapshots.MessageNotFound("x" * 5000),
    ],
    ids=lambda error: type(error).__name__,
)
def test_long_values_are_shortened(error: Exception) -> None:
    """A detail repeats only the beginning of a value."""
    assert len(str(error)) < 200
    assert "…" in str(error)


@pytest.mark.parametrize(
    "requested_s, retry_after",
    [
        (None, "2"),
        (0.0, "1"),
        (4.2, "5"),
        (1e9, "3600"),
        (float("inf"), "3600"),
    ],
)
def test_temporary_problems_have_retry_after(
    requested_s: float | None, retry_after: str
) -> None:
    """It has whole seconds between 1 and 3600, as the upstream requested."""
    error = usage.MessagesUnavailable("", retry_after_s=requested_s)
    response = answer_problem(error, "", KINDS)

    assert response.headers["Retry-After"] == retry_after


@pytest.mark.parametrize(
    "module, root",
    [
        (usage, usage.UsageError),
        (periods, periods.PeriodError),
        (events, events.EventsError),
        (storage, storage.StorageError),
        (keys, keys.KeysError),
    ],
    ids=["usage", "periods", "events", "storage", "keys"],
)
def test_every_error_of_a_domain_is_in_the_table(
    module: ModuleType, root: type[Exception]
) -> None:
    """No error of a domain is answered as an internal error."""
    leaves = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, root)
        and not kind.__subclasses__()
    ]

    assert leaves
    assert [kind for kind in leaves if not set(kind.__mro__) & KINDS.keys()] == []


def test_401_names_the_scheme() -> None:
    """401 has `WWW-Authenticate`, as HTTP requires; 403 has not."""
    refused = RequestProblem(problems.UNAUTHORIZED, "send a key")
    assert answer_problem(refused, "", KINDS).headers["WWW-Authenticate"] == "Bearer"
    forbidden = RequestProblem(problems.FORBIDDEN, "not yours")
    assert "WWW-Authenticate" not in answer_problem(forbidden, "", KINDS).headers


def test_the_documented_codes_are_those_of_the_code() -> None:
    """`docs/codes.md` lists every code with its status, and no other."""
    rows = ROW.findall(CODES_PAGE.read_text(encoding="utf-8"))
    documented = {code: status for code, status, _, _ in rows}

    assert len(documented) == len(rows) == len(ALL_KINDS)
    assert documented == {
        kind.code: "4xx" if kind is problems.REQUEST_REFUSED else str(kind.status.value)
        for kind in ALL_KINDS
    }
