"""The child process: the modules that it loads, and its files in memory."""

import gc
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
import pytest

from service.usage.pricing.plans import TEXT_RULES
from service.usage.snapshots import memory_files
from service.usage.snapshots.build import ResolvedReports
from service.usage.snapshots.cancellation import QueryCancelled
from service.usage.snapshots.formats import JSON, NDJSON
from service.usage.snapshots.logged_prices import PriceLogging
from service.usage.snapshots.process import (
    KEY_BYTES,
    MAX_CANCELLED_EARLY,
    READY,
    FileStore,
)
from tests.leftovers import open_files
from tests.reference import body_of, message

DEFAULT: Final = TEXT_RULES.id
PROGRAM: Final = "service.usage.snapshots.process"
NEEDED: Final = (
    "service.instants",
    "service.upstream.lenient_json",
    "service.usage.pricing.",
    "service.usage.snapshots.",
)
PACKAGES: Final = {"service", "service.upstream", "service.usage"} | {
    each.strip(".") for each in NEEDED
}
NOT_FOR_CHILD: Final = {
    "service.usage.snapshots.child",  # starts the child
    "service.usage.snapshots.process_worker",  # logs, and calls the child
    "service.usage.snapshots.worker",  # imports that
    "service.usage.snapshot",  # waits for it
}
LIBRARIES: Final = {"service", "numpy", "msgspec", "typing_extensions"}
"""The last one is loaded by the others where it is installed."""

LIST_MODULES: Final = """
import os, sys
from service.usage.snapshots import process
from multiprocessing.managers import Server

def serve_forever(self):
    print(*sorted(sys.modules), flush=True)

Server.serve_forever = serve_forever
sys.argv[1:] = ["@copilot-usage-" + sys.argv[1]]
process.main()
os._exit(0)  # a thread still reads standard input
"""


@pytest.fixture(scope="module")
def modules() -> set[str]:
    """Return the modules that the program has loaded when it serves.

    Without those of coverage, which else would measure this child too.
    """
    unmeasured = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    with subprocess.Popen(  # noqa: S603 - it runs this interpreter
        [sys.executable, "-c", LIST_MODULES, secrets.token_hex(8)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**unmeasured, "PYTHONPATH": str(Path.cwd())},
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"k" * KEY_BYTES)
        child.stdin.flush()
        ready, listed = child.stdout.readlines()
    assert child.returncode == 0
    assert ready == READY
    return set(listed.decode().split())


def test_child_loads_only_what_computing_needs(modules: set[str]) -> None:
    """Of the service: JSON, prices, snapshots and instants; nothing that waits."""
    own = {each for each in modules if each.split(".")[0] == "service"}
    assert f"{PROGRAM.rpartition('.')[0]}.store" in own
    others = {each for each in own - PACKAGES if not each.startswith(NEEDED)}
    assert others | own & NOT_FOR_CHILD == set()


def test_child_loads_no_other_library(modules: set[str]) -> None:
    """Beside the standard library: numpy and msgspec, and no event loop."""
    roots = {each.split(".")[0] for each in modules if not each.startswith("_")}
    assert roots - set(sys.stdlib_module_names) - LIBRARIES == set()
    assert not {"asyncio", "ssl", "sqlite3", "http"} & modules


@pytest.fixture
def store() -> FileStore:
    """A store of one snapshot of three messages."""
    store = FileStore()
    store.load(1, body_of(map(message, range(3))), None)
    store.build(1, None, ResolvedReports((), ()), PriceLogging("", 0), plan=DEFAULT)
    return store


def test_large_answer_is_shared_by_its_path(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process reads the memory of the answer, of which pages are slices."""
    gc.collect()  # garbage of other tests may have files, too
    expected, files = bytes(store.answer(1, DEFAULT, JSON)), open_files()
    assert store.answer_path(1, DEFAULT, JSON) is None
    monkeypatch.setattr(memory_files, "MIN_MAPPED_BYTES", 1)
    for number in (2, 3):  # the third one copies the items of the second one
        store.load(number, body_of(map(message, range(3))), number - 1)
        reports = ResolvedReports((), ())
        logging = PriceLogging("", 0)
        store.build(number, number - 1, reports, logging, plan=DEFAULT)
        path = store.answer_path(number, DEFAULT, JSON)
        assert path is not None
        assert Path(path).read_bytes() == expected
        assert bytes(store.answer(number, DEFAULT, JSON)) == expected
        assert store.answer_path(number, DEFAULT, NDJSON) is None
        lines = bytes(store.answer(number, DEFAULT, NDJSON)).splitlines()
        assert [msgspec.json.decode(each)["message_id"] for each in lines] == [0, 1, 2]
        store.drop(number - 1)
    store.drop(3)
    gc.collect()
    assert open_files() == files


def test_other_answers_are_written_into_files(store: FileStore, tmp_path: Path) -> None:
    """A small answer, and that in another format, travels as a copy."""
    file = tmp_path / "answer"
    for media_type in (JSON, NDJSON):
        expected = bytes(store.answer(1, DEFAULT, media_type))
        size = store.answer_file(str(file), 1, DEFAULT, media_type)
        assert file.read_bytes() == expected
        assert size == len(expected)


def test_messages_and_columns_travel_in_files(store: FileStore, tmp_path: Path) -> None:
    """A body is loaded, and columns are packed and adopted, by a path."""
    body, packed = tmp_path / "body", tmp_path / "packed"
    body.write_bytes(body_of(map(message, range(5))))
    assert store.load_file(2, str(body), 1).messages == 5
    assert store.pack_file(str(packed), 1, DEFAULT) == packed.stat().st_size
    store.adopt_file(7, str(packed))
    assert bytes(store.answer(7, DEFAULT, JSON)) == store.answer(1, DEFAULT, JSON)


def test_a_query_may_be_cancelled_before_it_comes(store: FileStore) -> None:
    """It does not run, and the ids of queries that never come are not kept for ever."""
    call: tuple[str, object, object] = "by_report", (1, DEFAULT), {}
    store.cancel_query(1)
    with pytest.raises(QueryCancelled):
        store.run_query(1, *call)
    ended = store.run_query(2, *call)

    for late in range(2, 2 + 2 * MAX_CANCELLED_EARLY):
        store.cancel_query(late)

    assert ended == store.run_query(2, *call)
    assert len(store._cancelled_early) == MAX_CANCELLED_EARLY
