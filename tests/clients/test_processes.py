"""The synchronous client at the end of a process, in its forks and its successors."""

import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from threading import Thread

from tests.clients.answering import (
    Server,
)
from tests.clients.conftest import MakeClient, spooled
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import ROOT

SOURCE = ROOT / "clients" / "python" / "src"
QUIET = ("-W", "ignore::DeprecationWarning")
"""Newer versions of Python warn of forks beside threads."""


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program that uses the client, with these arguments."""
    return subprocess.run(  # noqa: S603
        [sys.executable, *QUIET, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        check=False,
        text=True,
        timeout=GIVE_UP_S,
    )


def test_the_end_of_a_process_delivers(server: Server, spool_dir: Path) -> None:
    """A program that closes nothing, and ends with an error, loses no event."""
    ended = run_python(
        """
        import sys
        from copilot_usage_client import Client
        client = Client(sys.argv[1], "key", spool_dir=sys.argv[2], close_timeout_s=100)
        for n in range(1_500):
            client.track("a", "b", {"n": n}, session_id="s")
        raise SystemExit(3)
        """,
        *(server.url, spool_dir),
    )

    assert (ended.returncode, ended.stderr) == (3, "")
    events = [event for each in server.received for event in each.events]
    assert [event["data"]["n"] for event in events] == list(range(1_500))


def test_the_end_of_a_process_has_a_time_limit(server: Server, spool_dir: Path) -> None:
    """A service that never answers delays the end up to the limit; no event is lost."""
    server.failures = itertools.repeat(server.hang)
    ended = run_python(
        """
        import sys
        from copilot_usage_client import Client
        client = Client(sys.argv[1], "key", spool_dir=sys.argv[2], close_timeout_s=0.1)
        for n in range(1_500):
            client.track("a", "b", {"n": n}, session_id="s")
        """,
        *(server.url, spool_dir),
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(spooled(spool_dir)) == 1_500


def test_a_killed_process_loses_no_spooled_event(
    make_client: MakeClient, server: Server, spool_dir: Path
) -> None:
    """What has reached the spool is sent by the next process, but for a torn line."""
    ended = run_python(
        """
        import os, signal, sys
        from copilot_usage_client import Client
        client = Client("http://127.0.0.1:9", "key", spool_dir=sys.argv[1])
        for n in range(1_500):
            client.track("a", "b", {"n": n}, session_id="s")
        while client.counts.memory_bytes:
            client.flush(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        spool_dir,
    )
    assert ended.returncode == -9, ended.stderr
    last = max(spool_dir.iterdir())
    os.truncate(last, last.stat().st_size - 5)
    with make_client():
        pass

    assert len(set(server.accepted)) == len(server.accepted) == 1_499


def test_several_processes_share_a_spool(
    make_client: MakeClient, server: Server, spool_dir: Path
) -> None:
    """Processes that write and send at the same time lose and double nothing."""
    program = """
        import sys
        from copilot_usage_client import Client
        for url in sys.argv[2:]:
            client = Client(url, "key", spool_dir=sys.argv[1], close_timeout_s=0.2)
            for n in range(700):
                client.track("a", "b", {"n": n}, session_id="s")
            client.close()
        """
    urls = ["http://127.0.0.1:9", server.url, "http://127.0.0.1:9", server.url]
    ended = list[subprocess.CompletedProcess[str]]()
    threads = [
        Thread(target=lambda: ended.append(run_python(program, spool_dir, *urls)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GIVE_UP_S)
    with make_client():
        pass

    assert [each.returncode for each in ended] == [0] * 3
    assert len(set(server.accepted)) == 3 * 4 * 700


FORKS = """
    import os, sys
    from copilot_usage_client import Client
    client = Client(sys.argv[1], "key", spool_dir=sys.argv[2], close_timeout_s=100)
    ids = [client.track("a", "parent", {}, session_id="s") for _ in range(100)]
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            ids = [client.track("a", "child", {}, session_id="s") for _ in range(100)]
            sys.exit(0 if client.flush(100) else 1)
        children.append(child)
        ids += [client.track("a", "parent", {}, session_id="s") for _ in range(100)]
    status = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(0 if client.close() and status == [0] * 3 else 1)
    """


def test_a_fork_takes_no_events_of_its_parent(server: Server, spool_dir: Path) -> None:
    """Parent and children deliver their own events, each once and with its own id."""
    ended = run_python(FORKS, server.url, spool_dir)

    assert (ended.returncode, ended.stderr) == (0, "")
    names = [event["name"] for each in server.received for event in each.events]
    assert (names.count("parent"), names.count("child")) == (400, 300)
    assert len(set(server.accepted)) == 700


def test_a_fork_leaves_the_files_of_its_parent(
    make_client: MakeClient, server: Server, spool_dir: Path
) -> None:
    """During an outage both write files of their own, of which nothing is lost."""
    program = FORKS.replace("close_timeout_s=100", "close_timeout_s=0.1").replace(
        "client.flush(100)", "not client.flush(0.1)"
    )
    ended = run_python(program, f"http://127.0.0.1:{free_port()}", spool_dir)
    assert ended.stderr.count("events are not delivered") == 4
    with make_client():
        pass

    assert len(server.accepted) == len(set(server.accepted)) == 700


def test_a_child_of_multiprocessing_delivers(server: Server, spool_dir: Path) -> None:
    """Its events are delivered at its end, which runs no `atexit` function."""
    ended = run_python(
        """
        import multiprocessing, sys
        from copilot_usage_client import Client
        client = Client(sys.argv[1], "key", spool_dir=sys.argv[2], close_timeout_s=100)

        def work():
            for n in range(100):
                client.track("a", "child", {"n": n}, session_id="s")

        children = [multiprocessing.get_context("fork").Process(target=work)
                    for _ in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        """,
        *(server.url, spool_dir),
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(set(server.accepted)) == 300
