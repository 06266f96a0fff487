"""The engine of Ray: real clusters, whose workers and head are killed."""

import json
import shutil
import socket
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest

from service.usage.bulk.cluster import connected_ray
from service.usage.bulk.errors import NoEngine, RunFailed
from service.usage.bulk.ray_engine import NAME, run_task
from service.usage.bulk.units import Job
from service.usage.bulk.workspace import Workspace
from tests.usage.bulk.conftest import price
from tests.usage.bulk.ray_clusters import (
    finish,
    kill_all,
    needs_ray,
    processes,
    running_head,
    short_folder,
    start_price,
    wait_for_records,
    wait_until,
)

MESSAGES: Final = 60_000
UNIT_BYTES: Final = 250_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of messages of four weeks, of about 8 MB."""
    path = tmp_path_factory.mktemp("input") / "messages.ndjson"
    text = "What is the rent of the flat in the north, and from when? "
    with path.open("w") as sink:
        for number in range(MESSAGES):
            day = 1 + number * 28 // MESSAGES
            timestamp = f"2024-04-{day:02}T03:25:03.613Z"
            message = {"id": number, "text": text + str(number % 977)}
            sink.write(json.dumps(message | {"timestamp": timestamp}) + "\n")
    return path


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output for this file, without any engine."""
    output = tmp_path_factory.mktemp("expected") / "out"
    price(source, output=output, software=version(NAME))
    return output


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def contents(output: Path) -> dict[str, bytes]:
    """The files of an output; without it, what is beside it is shown."""
    assert output.is_dir(), list(output.parent.iterdir())
    return {
        str(each.relative_to(output)): each.read_bytes()
        for each in output.rglob("*")
        if each.is_file()
    }


@needs_ray
def test_a_cluster_for_one_run_gives_the_same_bytes(
    source: Path, expected: Path, folder: Path
) -> None:
    """It ends with the run, and leaves neither processes nor files."""
    output = folder / "out"
    command = start_price(folder, source, "-o", output, "--engine", "ray")
    status, printed = finish(command)

    assert (status, contents(output)) == (0, contents(expected)), printed
    assert processes(folder) == []
    shutil.rmtree(output)
    assert [each.name for each in folder.iterdir() if each.name != ".ray"] == []


@needs_ray
def test_a_run_survives_its_workers_and_continues_after_its_cluster(
    source: Path, expected: Path, folder: Path
) -> None:
    """Killed workers are replaced; after the head is killed, a new one continues."""
    output = folder / "out"
    arguments = (source, "-o", output, "--engine", "ray", "--address")
    with running_head(folder) as address:
        command = start_price(folder, *arguments, address, unit_bytes=UNIT_BYTES)
        wait_for_records(output, 1)
        # Between two tasks, no process has this name.
        wait_until(lambda: kill_all(folder, "ray::run_task") > 0)
        wait_for_records(output, 8)
        assert kill_all(folder, "/ray/") > 0
        status, printed = finish(command)
    assert (status, output.exists()) == (1, False), printed
    assert "copilot-usage: the head of Ray at 127.0.0.1:" in printed.splitlines()[-1]
    assert "Traceback" not in printed

    with running_head(folder) as address:
        command = start_price(folder, *arguments, address, unit_bytes=UNIT_BYTES)
        status, printed = finish(command)
    assert (status, contents(output)) == (0, contents(expected)), printed


@needs_ray
def test_a_cluster_of_another_version_is_refused(source: Path, folder: Path) -> None:
    """One line has both versions, of Ray and of Python."""
    output = folder / "out"
    with running_head(folder, "2.1.0") as address:
        command = start_price(
            folder, source, "-o", output, "--engine", "ray", "--address", address
        )
        status, printed = finish(command)

    (line,) = printed.splitlines()
    assert (status, output.exists()) == (2, False)
    assert "no usable cluster of Ray: Version mismatch" in line
    assert "Ray: 2.1.0 Python: 3." in line


@pytest.mark.parametrize(
    "address", ["ray://127.0.0.1:10001", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """The message has the address."""
    with pytest.raises(NoEngine, match=address), connected_ray(address, None):
        pass


def test_an_address_without_a_cluster_is_refused() -> None:
    """The command does not wait for a cluster there."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # nothing listens
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with (
            pytest.raises(NoEngine, match="Connection refused"),
            connected_ray(address, None),
        ):
            pass


def test_without_ray_the_command_says_how_to_install_it() -> None:
    """The environment of most users has no Ray, and neither has that of the tests."""
    with (
        pytest.raises(NoEngine, match=r"pip install 'copilot-usage\[ray\]'"),
        connected_ray(None, 1),
    ):
        pass


@pytest.mark.parametrize(
    "software, reason",
    [("0.0.1", "install the same"), (version(NAME), "does not see")],
)
def test_a_worker_of_no_use_refuses_its_tasks(
    software: str, reason: str, tmp_path: Path
) -> None:
    """Another version could write other bytes, and a folder of its own is lost."""
    job = Job(Workspace(str(tmp_path / "out")), "text-rules/1", software)

    with pytest.raises(RunFailed, match=reason):
        run_task(lambda _job, task: task, job, 1)
