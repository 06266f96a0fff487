"""The synchronous client over real sockets, in one process."""

import itertools
import logging
from pathlib import Path
from threading import Event, Thread
from typing import Any
from unittest.mock import Mock

import pytest

from copilot_usage_client import Client, Problem
from copilot_usage_client import transport as transport_module
from copilot_usage_client.delivery import Delivery
from tests.clients.answering import (
    Received,
    Reply,
    Server,
    accept,
    always,
    answering,
    receipt,
)
from tests.clients.conftest import MakeClient, spooled, view_pages
from tests.patience import GIVE_UP_S
from tests.ports import free_port


def test_events_arrive_whole_and_in_order(
    make_client: MakeClient, server: Server
) -> None:
    """Leaving the context delivers all events, in requests with the key."""
    with make_client(key="cu_1", compress=False) as client:
        ids = view_pages(client, range(2_500))

    assert server.accepted == ids
    assert [len(each.events) for each in server.received][-1] <= 1_000
    headers = server.received[0].headers
    assert headers["Authorization"] == "Bearer cu_1"
    assert headers["Content-Type"] == "application/x-ndjson"
    assert client.counts == (2_500, 0, 0, 0)


def test_compressed_requests(make_client: MakeClient, server: Server) -> None:
    """With `compress` the bodies are gzip."""
    with make_client(compress=True) as client:
        ids = view_pages(client, range(100))

    assert server.accepted == ids
    assert server.received[0].headers["Content-Encoding"] == "gzip"


def test_flush_waits_for_what_was_tracked(
    make_client: MakeClient, server: Server
) -> None:
    """It returns True once the service has accepted all events; the client goes on."""
    client, ids = make_client(), list[str]()
    for n in range(3):
        ids += view_pages(client, range(10 * n, 10 * n + 10))
        assert client.flush(GIVE_UP_S)
        assert server.accepted == ids
    assert client.flush(0) in {True, False}


def test_flush_and_close_have_a_time_limit(
    make_client: MakeClient, server: Server, spool_dir: Path
) -> None:
    """They return False, `close` keeps the events in flight in the spool."""
    server.failures = itertools.repeat(server.hang)
    client = make_client()
    view_pages(client, range(10))
    assert server.hung.wait(GIVE_UP_S)
    assert not client.flush(0.01)
    assert not client._delivery.hurries
    assert not client.close(0.01)
    assert not client.close(0.01)

    assert len(spooled(spool_dir)) == 10


def test_the_next_client_sends_the_spool_first(
    make_client: MakeClient, server: Server, spool_dir: Path
) -> None:
    """Events of a client that could not deliver come before new ones."""
    ids = list[str]()
    for _ in range(3):
        away = make_client(url=f"http://127.0.0.1:{free_port()}")
        ids += view_pages(away, range(700))
        assert not away.close(0)
    with make_client() as client:
        assert client.flush(GIVE_UP_S)
        assert server.accepted == ids
        ids += view_pages(client, range(1))

    assert server.accepted == ids
    assert not list(spool_dir.iterdir())


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_keeps_the_events_for_a_valid_key(
    status: int, make_client: MakeClient, server: Server, problems: list[Problem]
) -> None:
    """It is reported once; a client with another key delivers what was kept."""
    reported = Event()

    def on_error(problem: Problem) -> None:
        problems.append(problem)
        reported.set()

    def refuse_revoked(received: Received) -> Reply:
        is_revoked = received.headers["Authorization"] == "Bearer revoked"
        return Reply(status) if is_revoked else accept(received)

    server.failures = itertools.repeat(refuse_revoked)
    refused = make_client(key="revoked", on_error=on_error)
    ids = view_pages(refused, range(10))
    assert reported.wait(GIVE_UP_S)
    ids += view_pages(refused, range(10, 20))
    assert not refused.close(0.05)
    assert [each.code for each in problems] == ["refused"]
    with make_client(key="valid"):
        pass

    assert sorted(server.accepted) == ids


def test_a_redirect_is_not_followed(
    make_client: MakeClient, server: Server, problems: list[Problem]
) -> None:
    """No other server receives the key or the events."""
    with answering() as other:
        moved = always(307, Location=other.url + "/events")
        server.failures = iter([moved, moved])
        with make_client() as client:
            ids = view_pages(client, range(10))
        assert other.received == []

    assert server.accepted == ids
    assert [each.code for each in problems] == ["refused"]


def test_a_connection_that_the_service_closes_is_opened_again(
    make_client: MakeClient, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of an idle connection is no failure."""
    with make_client() as client:
        ids = view_pages(client, range(10))
        assert client.flush(GIVE_UP_S)
        server.failures = iter([lambda _: Reply(0)])
        ids += view_pages(client, range(10, 20))
        assert client.flush(GIVE_UP_S)

    assert server.accepted == ids
    assert not caplog.records


def test_an_answer_without_end_is_cut_off(
    make_client: MakeClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client reads no more than the largest receipt has, and sends again."""
    monkeypatch.setattr(transport_module, "MAX_ANSWER_BYTES", 10_000)
    server.failures = iter([always(202, b" " * 1_000_000)])
    with make_client() as client:
        ids = view_pages(client, range(10))

    assert server.accepted == [*ids, *ids]


def test_results_reach_on_error(
    make_client: MakeClient, server: Server, problems: list[Problem]
) -> None:
    """Each failed event is reported with its content and the service's errors."""
    error = {"code": "schema", "path": "/data", "message": "no path"}
    failed = {"status": "failed", "errors": [error]}
    server.failures = iter([lambda _: receipt(failed, {"status": "conflict"})])
    with make_client() as client:
        first, second = (
            client.track("a", "b", {"n": n}, session_id="s") for n in (1, 2)
        )
        client.flush(GIVE_UP_S)
        counts = client.counts

    assert [(each.code, each.event_id) for each in problems] == [
        ("failed", first),
        ("conflict", second),
    ]
    assert problems[0].errors == (error,)
    assert problems[0].event is not None
    assert problems[0].event["data"] == {"n": 1}
    assert (counts.delivered, counts.failed) == (0, 2)


def test_without_on_error_problems_are_logged(
    make_client: MakeClient, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the codes, and neither the key nor the content of events."""
    failed = {"status": "failed", "errors": [{"code": "schema"}]}
    server.failures = iter([lambda _: receipt(failed)])
    with make_client(on_error=None, key="cu_secret") as client:
        client.track("a", "b", {"x": "private"}, session_id="s")

    (record,) = caplog.records
    assert (record.name, record.levelno) == ("copilot_usage_client", logging.ERROR)
    text = record.getMessage()
    assert "failed" in text
    assert "schema" in text
    assert "private" not in text
    assert "secret" not in text


def test_on_error_may_do_anything(make_client: MakeClient, server: Server) -> None:
    """It may raise, track, flush and close; nothing stops or waits for itself."""
    codes, ids = list[str](), list[str | None]()

    def refuse_empty(received: Received) -> Reply:
        empty = [each["data"] == {} for each in received.events]
        return receipt(
            *({"status": "failed" if each else "accepted"} for each in empty)
        )

    server.failures = itertools.repeat(refuse_empty)

    def on_error(problem: Problem) -> None:
        codes.append(problem.code)
        ids.append(client.track("a", "b", {"of": problem.code}, session_id="s"))
        client.flush(GIVE_UP_S)
        raise ZeroDivisionError

    client = make_client(on_error=on_error)
    client.track("a", "b", {}, session_id="s")
    client.track("a", "b", {"x": object()}, session_id="s")
    assert client.flush(GIVE_UP_S)

    assert sorted(codes) == ["failed", "invalid"]
    assert set(ids) <= set(server.accepted)


def test_a_defect_does_not_end_the_delivery(
    make_client: MakeClient,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The thread logs it and goes on."""
    monkeypatch.setattr("copilot_usage_client.client.FAILED_PAUSE_S", 0.0)
    real, failures = Delivery.next_request, iter([True, True])

    def fail(self: Delivery) -> Any:
        if next(failures, False):
            raise ZeroDivisionError
        return real(self)

    monkeypatch.setattr(Delivery, "next_request", fail)
    with make_client() as client:
        ids = view_pages(client, range(10))

    assert server.accepted == ids
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_tracking_after_close_goes_to_the_spool(
    make_client: MakeClient, server: Server, spool_dir: Path
) -> None:
    """An `atexit` function that runs later than the client's loses nothing."""
    client = make_client()
    ids = view_pages(client, range(3))
    client.close()
    ids += view_pages(client, range(3, 5))
    assert len(spooled(spool_dir)) == 2
    with make_client():
        pass

    assert server.accepted == ids


def test_without_a_spool_close_reports_what_is_lost(
    make_client: MakeClient, spool_dir: Path, problems: list[Problem]
) -> None:
    """Nothing is written; the events are counted and reported."""
    url = f"http://127.0.0.1:{free_port()}"
    client = make_client(url=url, max_spool_bytes=0)
    view_pages(client, range(10))
    assert client.spool_dir is None
    assert not client.close(0)

    assert [(each.code, each.events) for each in problems] == [("dropped", 10)]
    assert client.counts.dropped == 10
    assert not spool_dir.exists()


INVALID_URLS = "shop.test ftp://a.test http:// /x http://a:b@a.test http://a.test?x=1"


@pytest.mark.parametrize("url", ["", *INVALID_URLS.split()])
def test_an_invalid_url_is_refused(url: str) -> None:
    """The constructor raises, instead of retrying for ever."""
    with pytest.raises(ValueError, match="URL"):
        Client(url, "key")


@pytest.mark.parametrize("key", ["", "key\n", "k y", "schlüssel"])
def test_an_invalid_key_is_refused(key: str) -> None:
    """The constructor raises for a key no header can have, without repeating it."""
    with pytest.raises(ValueError, match=r"^the key is empty, or has") as refused:
        Client("http://shop.test", key)
    assert not key or key not in str(refused.value)


def test_the_default_spool_is_of_one_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Applications with different keys or services share no folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = [
        Client(url, key, close_timeout_s=0)
        for url, key in itertools.product(["http://a.test", "http://b.test"], "xyx")
    ]
    folders = [client.spool_dir for client in made]
    for client in made:
        client.close()

    assert len(set(folders)) == 4
    assert all(tmp_path in folder.parents for folder in folders if folder)


def test_without_threads_the_spool_takes_the_events(
    make_client: MakeClient, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that cannot start threads, as at its end, neither hangs nor loses."""
    monkeypatch.setattr(Thread, "start", Mock(side_effect=RuntimeError))
    client = make_client(max_memory_bytes=10_000)
    view_pages(client, range(100))
    assert not client.flush(GIVE_UP_S)
    assert not client.close(GIVE_UP_S)

    assert len(spooled(spool_dir)) == 100
