"""Problems: every error of ours has its entry, and no answer shows our insides."""

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp import web

from service.events import errors as events
from service.parameters import InvalidParameter
from service.storage import errors as storage
from service.usage import errors as usage
from service.usage.snapshots import errors as snapshots
from service.web import problems
from service.web.problems import (
    INTERNAL_ERROR,
    KINDS,
    ProblemKind,
    RequestProblem,
    answer_problem,
    kind_of,
)

CODES_PAGE = Path(__file__).parents[2] / "docs" / "codes.md"
ROW = re.compile(r"\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|")

ALL_KINDS = [kind for kind in vars(problems).values() if isinstance(kind, ProblemKind)]
SECRET = "http://upstream.internal/reports/7"


class Unknown(Exception):
    """An error that the table does not know."""


@pytest.mark.parametrize(
    "error, code, status",
    [
        (InvalidParameter("limit", "expected more"), "invalid_parameter", 400),
        (usage.UnknownPlan("x", ["a", "b"]), "unknown_plan", 400),
        (snapshots.MessageNotFound(7), "message_not_found", 404),
        (snapshots.CursorExpired("gone"), "cursor_expired", 410),
        (usage.MessagesUnavailable(SECRET), "messages_unavailable", 503),
        (usage.ReportUnavailable(SECRET), "report_unavailable", 503),
        (usage.ShrinkUnconfirmed(SECRET), "messages_unavailable", 503),
        (usage.DeadlineExceeded(SECRET), "deadline_exceeded", 503),
        (usage.WorkerLost(SECRET), "period_lost", 503),
        (snapshots.RevisionGone(SECRET), "period_lost", 503),
        (snapshots.TextsMissing(SECRET), "period_lost", 503),
        (events.NotJson("the body is not JSON"), "not_json", 400),
        (events.TooManyEvents("1001 events"), "too_many_events", 413),
        (events.SessionNotFound("none"), "session_not_found", 404),
        (events.FailedEventNotFound("none"), "failed_event_not_found", 404),
        (events.ReplayRefused("still"), "replay_refused", 409),
        (events.BacklogFull(SECRET), "backlog_full", 503),
        (storage.StorageUnavailable(SECRET), "storage_unavailable", 503),
        (storage.Collided(SECRET), "storage_unavailable", 503),
        (web.HTTPNotFound(), "not_found", 404),
        (web.HTTPMethodNotAllowed("PUT", ["GET"]), "method_not_allowed", 405),
        (web.HTTPBadRequest(), "request_refused", 400),
        (web.HTTPRequestEntityTooLarge(1, 2), "request_refused", 413),
        (RequestProblem(problems.NOT_ACCEPTABLE, "offered: a"), "not_acceptable", 406),
        (usage.RefreshFailed(SECRET), "internal_error", 500),
        (web.HTTPBadGateway(text=SECRET), "internal_error", 500),
        (Unknown(SECRET), "internal_error", 500),
        (KeyError(SECRET), "internal_error", 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_becomes_a_problem(error: Exception, code: str, status: int) -> None:
    """Each error has its code and status, in a body of the one shape."""
    response = answer_problem(error, "some-id")

    assert isinstance(response.body, bytes)
    body = json.loads(response.body)
    kind = kind_of(error)
    assert response.status == status
    assert response.content_type == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
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
        (InvalidParameter("limit", "expected more"), "limit: expected more"),
        (usage.UnknownPlan("x", ["a", "b"]), "unknown plan 'x'; known: a, b"),
        (snapshots.MessageNotFound(7), "the current period has no message 7"),
        (web.HTTPMethodNotAllowed("PUT", ["HEAD", "GET"]), "allowed: GET, HEAD"),
        (web.HTTPNotFound(text=SECRET), "Not Found"),
        (Unknown("secret"), "the log tells more under this request id"),
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
            "nothing was lost, and what is sent again is stored once"
            + problems.TRY_AGAIN,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_the_detail_helps_the_caller(error: Exception, detail: str) -> None:
    """The text names what was wrong with the request, and nothing of ours."""
    body = answer_problem(error, "").body

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
def test_a_caller_does_not_get_it_all_back(error: Exception) -> None:
    """What was given is repeated as far as a reader needs it."""
    assert len(str(error)) < 200
    assert "…" in str(error)


@pytest.mark.parametrize(
    "asked_s, retry_after",
    [
        (None, "2"),
        (0.0, "1"),
        (0.2, "1"),
        (1.0, "1"),
        (4.2, "5"),
        (3600.0, "3600"),
        (1e9, "3600"),
        (float("inf"), "3600"),
    ],
)
@pytest.mark.parametrize(
    "kind",
    [usage.MessagesUnavailable, usage.ReportUnavailable, usage.DeadlineExceeded],
    ids=lambda kind: kind.__name__,
)
def test_an_unavailable_period_says_when_to_come_back(
    kind: type[usage.RefreshFailed], asked_s: float | None, retry_after: str
) -> None:
    """In whole seconds, at least one, as upstream wished within reason."""
    response = answer_problem(kind("", retry_after_s=asked_s), "")

    assert response.headers["Retry-After"] == retry_after


@pytest.mark.parametrize("error", [snapshots.MessageNotFound(1), Unknown()], ids=repr)
def test_other_problems_do_not_say_so(error: Exception) -> None:
    """Where coming back does not help, there is no `Retry-After`."""
    assert "Retry-After" not in answer_problem(error, "").headers


@pytest.mark.parametrize(
    "module, root",
    [
        (usage, usage.UsageError),
        (events, events.EventsError),
        (storage, storage.StorageError),
    ],
    ids=["usage", "events", "storage"],
)
def test_every_error_of_a_domain_is_in_the_table(
    module: ModuleType, root: type[Exception]
) -> None:
    """None is answered as a mistake of ours."""
    leaves = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, root)
        and not kind.__subclasses__()
    ]

    assert leaves
    assert [kind for kind in leaves if not set(kind.__mro__) & KINDS.keys()] == []


def test_who_needs_a_key_is_told_how_to_send_it() -> None:
    """401 names the scheme, as HTTP wants; no other problem does."""
    refused = RequestProblem(problems.UNAUTHORIZED, "send a key")
    assert answer_problem(refused, "").headers["WWW-Authenticate"] == "Bearer"
    forbidden = RequestProblem(problems.FORBIDDEN, "not yours")
    assert "WWW-Authenticate" not in answer_problem(forbidden, "").headers


def test_codes_are_different() -> None:
    """A code means one thing."""
    codes = [kind.code for kind in ALL_KINDS]

    assert len(set(codes)) == len(codes)


def test_a_descendant_is_answered_as_its_ancestor() -> None:
    """An error is looked up along its ancestry, the nearest first."""

    class OutOfReach(usage.ReportUnavailable):
        """A kind of its parent."""

    assert kind_of(OutOfReach("")) is problems.REPORT_UNAVAILABLE
    assert kind_of(web.HTTPGone()) is problems.REQUEST_REFUSED
    assert kind_of(ValueError()) is INTERNAL_ERROR


def test_the_documented_codes_are_those_of_the_code() -> None:
    """`docs/codes.md` lists every code with its status, and no other."""
    rows = ROW.findall(CODES_PAGE.read_text(encoding="utf-8"))
    documented = {code: status for code, status, _, _ in rows}

    assert len(documented) == len(rows)
    assert documented == {
        kind.code: "4xx" if kind is problems.REQUEST_REFUSED else str(kind.status.value)
        for kind in ALL_KINDS
    }
