"""Input from an object store and output to one: moto's server speaks the API of S3."""

import gzip
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import pytest
from pyarrow import fs

from service.usage.bulk.errors import OutputExists, RunInProgress
from service.usage.bulk.output import write_totals
from service.usage.bulk.ray_engine import NAME
from service.usage.bulk.run import Request, price_files
from service.usage.bulk.workspace import Workspace
from service.usage.pricing.plans import TEXT_RULES
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.usage.bulk.conftest import open_inline, price
from tests.usage.bulk.ray_clusters import LOOK_AGAIN_S, PYTHON, needs_ray

KEYS: Final = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
TIMESTAMP: Final = "2024-04-29T03:25:03.613Z"
CONTENT: Final = b"".join(
    b'{"id": %d, "text": "Rent?", "timestamp": "%s"}\n' % (each, TIMESTAMP.encode())
    for each in range(1000)
)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A store on this port; it ends with the test."""
    port = free_port()
    command = (PYTHON.with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port))
    with (tmp_path / "moto.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603
    end = time.monotonic() + GIVE_UP_S
    while not listens(port):
        assert server.poll() is None, (tmp_path / "moto.log").read_text()
        assert time.monotonic() < end
        time.sleep(LOOK_AGAIN_S)
    yield port
    server.kill()
    server.wait()


def listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def store(port: int) -> Any:
    """The store, with an empty bucket."""
    system = fs.S3FileSystem(
        access_key="key",
        secret_key="secret",
        endpoint_override=f"http://127.0.0.1:{port}",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    system.create_dir("bucket")
    return system


def run(port: int, *arguments: str) -> tuple[int, str]:
    """Run the command with the store; returns its status and what it printed."""
    own = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    region = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "service", "price", *arguments],
        env=os.environ | KEYS | own | region,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=GIVE_UP_S,
        check=False,
    )
    return done.returncode, done.stdout


def contents(system: Any, folder: str) -> dict[str, bytes]:
    """The files below a folder, without the manifest, which has other paths."""
    found = system.get_file_info(fs.FileSelector(folder, recursive=True))
    paths = [each.path for each in found if each.type == fs.FileType.File]
    return {
        path.removeprefix(folder): system.open_input_stream(path).read()
        for path in paths
        if not path.endswith("manifest.json")
    }


@needs_ray
def test_an_object_store_has_the_same_output_as_a_folder(
    tmp_path: Path, port: int, store: Any
) -> None:
    """Two inputs are found below a URL; the work is removed, and output is kept."""
    source = tmp_path / "in"
    source.mkdir()
    cut = len(CONTENT.splitlines(keepends=True)[0]) * 10
    for name, some in (("a", CONTENT[:cut]), ("b", CONTENT[cut:])):
        (source / f"{name}.ndjson").write_bytes(some)
        with store.open_output_stream(f"bucket/in/{name}.ndjson") as sink:
            sink.write(some)
    price(source, output=tmp_path / "out", software=version(NAME))

    arguments = ("s3://bucket/in", "--output", "s3://bucket/out")
    status, printed = run(port, *arguments)

    local = contents(fs.LocalFileSystem(), str(tmp_path / "out"))
    assert status == 0, printed
    assert contents(store, "bucket/out") == local
    assert len(local) == 2
    assert store.get_file_info("bucket/.out.work").type == fs.FileType.NotFound
    assert run(port, *arguments)[0] == 2

    # Parts of earlier output would be read with those of this one.
    stale = ("bucket/out/messages/day=2020-01-01/part-00000.parquet", "bucket/out/note")
    for path in stale:
        with store.open_output_stream(path) as sink:
            sink.write(b"")
    assert run(port, *arguments, "--force")[0] == 0
    assert contents(store, "bucket/out") == {**local, "/note": b""}


@needs_ray
def test_a_bucket_that_does_not_exist_is_one_line(port: int, store: Any) -> None:
    """The message has the URL."""
    del store
    status, printed = run(port, "s3://nothing/in", "--output", "s3://bucket/out")

    (line,) = printed.splitlines()
    assert status == 2
    assert "s3://nothing/in" in line


NAMES: Final = (
    "plain.ndjson",
    "day=2024-04-29/h=00:00.ndjson",
    "h=00%3A00.ndjson",
    "h=00:00.ndjson",  # what the name before it is when it is decoded
    "a#b.ndjson",
    "a",
    "a?b.ndjson",
    "a?region=eu-west-1",
    "a b.ndjson",
    "a+b.ndjson",
    "a&b;c[1].csv.ndjson",
    "50%.ndjson",
    "\u00e9\u4e2d.ndjson",
    "x y.ndjson.gz",
)


def fill(store: Any, folder: str) -> None:
    """Write an object for each of the names, with the message of its number."""
    for number, name in enumerate(NAMES):
        message = {"id": number, "text": "Rent?", "timestamp": TIMESTAMP}
        body = json.dumps(message).encode()
        if name.endswith(".gz"):
            body = gzip.compress(body)
        with store.open_output_stream(f"{folder}/{name}", compression=None) as sink:
            sink.write(body)


@needs_ray
@pytest.mark.parametrize("folder", ["in", "in put%2F#1"])
def test_names_of_objects_are_not_decoded_again(
    port: int, store: Any, folder: str
) -> None:
    """Each object is read, and no other one with its decoded name."""
    fill(store, f"bucket/{folder}")
    url, output = f"s3://bucket/{quote(folder)}", "s3://bucket/out"

    printed = run(port, url, "--output", output, "--input-format", "ndjson")

    assert printed[0] == 0, printed
    manifest = json.loads(store.open_input_stream("bucket/out/manifest.json").read())
    found = {each["path"]: each["rows"] for each in manifest["inputs"]}
    assert {unquote(each) for each in found} == {
        f"s3://bucket/{folder}/{name}" for name in NAMES
    }
    assert set(found.values()) == {1}
    assert manifest["messages"] == len(NAMES)
    assert f"{url}/day=2024-04-29/h=00:00.ndjson" in found


@needs_ray
@pytest.mark.parametrize("output", ["in/priced", "in/my%20priced%23"])
def test_output_in_a_folder_of_the_input(port: int, store: Any, output: str) -> None:
    """It is no input: neither while it is written, nor when it is replaced."""
    with store.open_output_stream("bucket/in/a.ndjson") as sink:
        sink.write(CONTENT)
    arguments = ("s3://bucket/in", "--output", f"s3://bucket/{output}")

    for options in ((), ("--force",)):
        status, printed = run(port, *arguments, *options)
        assert status == 0, printed
        assert "messages: 1000;" in printed


@needs_ray
@pytest.mark.parametrize("body", [b"{}", b'{"name": "Site"}'])
def test_a_manifest_of_others_in_a_store_is_kept(
    port: int, store: Any, body: bytes
) -> None:
    """Also with `--force`."""
    for name, content in (("in/a.ndjson", CONTENT), ("site/manifest.json", body)):
        with store.open_output_stream(f"bucket/{name}") as sink:
            sink.write(content)
    arguments = ("s3://bucket/in", "--output", "s3://bucket/site", "--force")

    status, printed = run(port, *arguments)

    assert (status, "no output of this command" in printed) == (2, True)
    assert contents(store, "bucket/site") == {}
    assert store.open_input_stream("bucket/site/manifest.json").read() == body


@pytest.fixture
def bucket(port: int, store: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The store, with a file of messages, for runs in this process."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    put(store, "in/a.ndjson", CONTENT)
    return store


def put(store: Any, name: str, body: bytes) -> None:
    with store.open_output_stream(f"bucket/{name}") as sink:
        sink.write(body)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def price_bucket(plan: str = TEXT_RULES.id, *, is_forced: bool = False) -> int:
    """Price the files of the bucket in this process; return how many messages."""
    request = Request(("s3://bucket/in",), "s3://bucket/out", plan, is_forced=is_forced)
    return price_files(request, open_inline, lambda *_: None).messages


@needs_ray
@pytest.mark.parametrize(
    "name",
    [
        "totals.csv",
        "rejected.parquet",
        "messages/day=2020-01-01/part-00000.parquet",
        "messages/day=2024-04-29/theirs.parquet",
    ],
)
def test_files_in_a_store_without_a_manifest_are_kept(bucket: Any, name: str) -> None:
    """They may be of others; readers of the output would take them for a part of it."""
    put(bucket, f"out/{name}", b"precious")

    for is_forced in (False, True):
        with pytest.raises(OutputExists, match=f"bucket/out/{name}"):
            price_bucket(is_forced=is_forced)

    assert contents(bucket, "bucket/out") == {f"/{name}": b"precious"}


@needs_ray
def test_a_kill_while_the_output_of_a_store_is_replaced(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command removes the rest of the earlier output, which is of this one."""
    # A day that only the earlier output has.
    put(bucket, "in/a.ndjson", CONTENT.replace(b"2024", b"2020"))
    assert price_bucket() == len(CONTENT.splitlines())
    put(bucket, "in/a.ndjson", CONTENT)
    remove = Workspace.remove_file

    def fail(space: Workspace, path: str) -> None:
        if path.endswith("totals.csv"):
            raise KeyboardInterrupt
        remove(space, path)

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "remove_file", fail)
        with pytest.raises(KeyboardInterrupt):
            price_bucket(is_forced=True)
    assert bucket.get_file_info("bucket/out/totals.csv").type == fs.FileType.File
    put(bucket, "out/note", b"precious")

    assert price_bucket() == len(CONTENT.splitlines())

    assert sorted(contents(bucket, "bucket/out")) == [
        "/messages/day=2024-04-29/part-00000.parquet",
        "/note",
        "/totals.csv",
    ]


@needs_ray
@pytest.mark.parametrize("is_removed", [False, True])
def test_a_run_of_a_store_continues_with_its_parts(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, *, is_removed: bool
) -> None:
    """Parts without a manifest are of the run that has a work folder.

    Someone may remove them, because they are not complete.
    """
    with monkeypatch.context() as patch:
        patch.setattr("service.usage.bulk.run.write_manifest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            price_bucket()
    before = contents(bucket, "bucket/out")
    assert len(before) == 2
    if is_removed:
        bucket.delete_dir("bucket/out")

    assert price_bucket() == len(CONTENT.splitlines())
    assert contents(bucket, "bucket/out") == before


@needs_ray
def test_a_run_whose_work_another_one_has_discarded_is_not_published(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts are mixed with those of the other run, which goes on."""

    def start_another(*args: Any) -> Any:
        monkeypatch.setattr("service.usage.bulk.run.write_totals", write_totals)
        with monkeypatch.context() as patch:
            patch.setattr("service.usage.bulk.run.plan_ranges", interrupt)
            with pytest.raises(KeyboardInterrupt):
                price_bucket("token-estimate/1", is_forced=True)
        return write_totals(*args)

    monkeypatch.setattr("service.usage.bulk.run.write_totals", start_another)
    with pytest.raises(RunInProgress, match="bucket/out"):
        price_bucket(is_forced=True)

    found = bucket.get_file_info("bucket/out/manifest.json")
    assert found.type == fs.FileType.NotFound
