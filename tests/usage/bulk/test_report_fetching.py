"""Reports of bulk pricing from a real upstream over sockets."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from service.settings import Settings, load
from service.usage.bulk import report_keys
from service.usage.bulk.errors import RunFailed
from service.usage.bulk.report_fetching import fetching
from service.usage.bulk.report_files import store_reports
from service.usage.snapshots.build import ReportPrice
from tests.usage.bulk.conftest import price, read_output
from tests.usage.bulk.files import FORMATS, message, write_messages

COSTS: Final = {"/reports/7": 61.25, "/reports/a%2Fb": 3}


class Upstream:
    """An upstream of reports that counts its calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.is_broken = False
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                upstream.calls[self.path] += 1
                self._answer(*upstream.answer(self.path))

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Keep the output of the tests clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def answer(self, path: str) -> tuple[int, bytes]:
        if self.is_broken:
            return 500, b""
        cost = COSTS.get(path)
        if cost is None:
            return 404, b""
        return 200, b'{"id": 1, "name": "%s", "credit_cost": %s}' % (
            path.encode(),
            str(cost).encode(),
        )


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    thread = threading.Thread(target=upstream.server.serve_forever, args=(0.01,))
    thread.start()
    yield upstream
    upstream.server.shutdown()
    upstream.server.server_close()
    thread.join()


@pytest.fixture
def settings(upstream: Upstream) -> Settings:
    url = f"http://127.0.0.1:{upstream.server.server_port}"
    options = {"upstream": {"base_url": url, "attempts": 1}}
    return load(options=options).settings


IDS: Final = ["7", "a/b", "missing", None, "7", "."]
ROWS: Final = [message(i, "a", report_id=each) for i, each in enumerate(IDS)]


@pytest.mark.parametrize("form", FORMATS)
def test_each_report_is_fetched_once(
    form: str, upstream: Upstream, settings: Settings, tmp_path: Path
) -> None:
    """However many messages name a report, it is fetched once; unusable ids never."""
    source = write_messages(tmp_path / f"in.{form}", ROWS)
    with fetching(settings) as resolve:
        address = settings.upstream.base_url
        price(source, output=tmp_path / "out", resolve=resolve, upstream=address)
    costs = [float(row["credits_used"]) for row in read_output(tmp_path / "out")]
    assert costs == [61.25, 3, 2, 2, 61.25, 2]
    assert upstream.calls == dict.fromkeys(
        ["/reports/7", "/reports/a%2Fb", "/reports/missing"], 1
    )


def test_continued_run_has_the_same_reports(
    upstream: Upstream, settings: Settings, tmp_path: Path, monkeypatch: Any
) -> None:
    """Reports that a run has fetched are not fetched again when it continues."""
    monkeypatch.setattr(report_keys, "RESOLVED_AT_ONCE", 1)
    source = write_messages(tmp_path / "in.ndjson", ROWS)
    address = settings.upstream.base_url

    def run() -> None:
        with fetching(settings) as resolve:
            price(source, output=tmp_path / "out", resolve=resolve, upstream=address)

    real = upstream.answer

    def break_later(path: str) -> tuple[int, bytes]:
        upstream.is_broken = upstream.is_broken or path == "/reports/missing"
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(upstream, "answer", break_later)
        with pytest.raises(RunFailed, match="unavailable"):
            run()
    upstream.is_broken = False
    run()
    assert upstream.calls["/reports/7"] == upstream.calls["/reports/a%2Fb"] == 1
    assert len(read_output(tmp_path / "out")) == len(ROWS)


def test_too_many_report_ids(
    settings: Settings, tmp_path: Path, monkeypatch: Any
) -> None:
    """The number of different report ids is bounded, as the memory of workers is."""
    monkeypatch.setattr(report_keys, "MAX_KEYS", 2)
    source = write_messages(tmp_path / "in.ndjson", ROWS)
    with fetching(settings) as resolve, pytest.raises(RunFailed, match="more than 2"):
        price(source, output=tmp_path / "out", resolve=resolve, upstream="x")


def test_many_reports_are_stored_few_times(
    settings: Settings, tmp_path: Path, monkeypatch: Any
) -> None:
    """Each time, all are written; a failure loses none that was resolved."""
    monkeypatch.setattr(report_keys, "RESOLVED_AT_ONCE", 1)
    stores: list[int] = []

    def count(space: Any, reports: Any) -> None:
        stores.append(len(reports))
        store_reports(space, reports)

    def resolve(keys: Sequence[str]) -> dict[str, ReportPrice | None]:
        if keys == ["599"]:
            raise RunFailed
        return dict.fromkeys(keys, ReportPrice("Lease", 100))

    monkeypatch.setattr("service.usage.bulk.report_keys.store_reports", count)
    rows = [message(each, report_id=f"{each:03}") for each in range(600)]
    source = write_messages(tmp_path / "in.ndjson", rows)
    address = settings.upstream.base_url
    with pytest.raises(RunFailed):
        price(source, output=tmp_path / "out", resolve=resolve, upstream=address)

    assert stores[-1] == 599
    assert len(stores) < 100
