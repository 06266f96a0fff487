"""A server that fails on request, and clients that have no waits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from copilot_usage_client import Client, Problem, delivery, outbox
from tests.clients.answering import Server, answering
from tests.patience import GIVE_UP_S


class MakeClient(Protocol):
    """A factory of clients of the server, with a spool in the test's folder."""

    def __call__(self, **options: Any) -> Client: ...


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients neither linger nor back off noticeably."""
    monkeypatch.setattr(delivery, "LINGER_S", 0.0)
    monkeypatch.setattr(delivery, "POLL_S", 0.005)
    monkeypatch.setattr(delivery, "SPILL_S", 0.005)
    monkeypatch.setattr(delivery, "FIRST_BACKOFF_S", 0.005)
    monkeypatch.setattr(delivery, "MAX_BACKOFF_S", 0.005)
    # A slow machine is no disk that stands still.
    monkeypatch.setattr(outbox, "MAX_WAIT_S", GIVE_UP_S)


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server that accepts all events, unless the test says otherwise."""
    with answering() as running:
        yield running


@pytest.fixture
def problems() -> list[Problem]:
    """Return the problems that clients of the test have reported."""
    return []


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    """Return the folder of the spool, which does not exist yet."""
    return tmp_path / "spool"


@pytest.fixture
def make_client(
    server: Server, spool_dir: Path, problems: list[Problem]
) -> Iterator[MakeClient]:
    """Return a factory of clients; they are closed at the end."""
    made: list[Client] = []

    def make(**options: Any) -> Client:
        chosen = {
            "url": server.url,
            "key": "key",
            "spool_dir": spool_dir,
            "on_error": problems.append,
            "timeout_s": GIVE_UP_S,
            "close_timeout_s": GIVE_UP_S,
            **options,
        }
        made.append(Client(**chosen))
        return made[-1]

    yield make
    for client in made:
        client.close(0)


def view_pages(client: Any, paths: range) -> list[str]:
    """Track a view of each numbered page; return the ids."""
    return [
        client.track(
            *("page interaction", "pageview"),
            {"host": "www.example.com", "path": f"/{path}"},
            session_id="session",
        )
        for path in paths
    ]


def spooled(folder: Path) -> list[bytes]:
    """Return the lines in all files of a spool."""
    files = sorted(folder.glob("*.ndjson"))
    return [line for file in files for line in file.read_bytes().splitlines()]
