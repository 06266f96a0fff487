"""Files of a run's work folder, which workers of several machines write."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.usage.bulk import run
from service.usage.bulk.errors import OutputExists
from service.usage.bulk.output import write_totals
from service.usage.bulk.workspace import UNFINISHED, Workspace, locate, name_of
from tests.usage.bulk.conftest import price
from tests.usage.bulk.files import content_of, message, write_messages


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_messages(tmp_path / "in.ndjson", [message(1)])


@pytest.fixture
def output(tmp_path: Path, source: Path) -> Path:
    """The output of an earlier run."""
    price(source, output=tmp_path / "out")
    return tmp_path / "out"


def test_two_writers_of_a_file_do_not_meet(tmp_path: Path) -> None:
    """A task may run twice at once; process ids of two machines may be equal."""
    space, path = Workspace(str(tmp_path / "priced")), tmp_path / "unit"
    space.prepare()
    with space.writing(str(path)) as first, space.writing(str(path)) as second:
        first.write(b"the whole unit")
        second.write(b"the whole unit")
    assert {each.name for each in tmp_path.iterdir()} == {"unit", ".priced.work"}
    assert path.read_bytes() == b"the whole unit"


def test_what_a_killed_writer_leaves_is_not_in_the_output(tmp_path: Path) -> None:
    """Its file has no complete name, and the output is renamed as a whole."""
    space = Workspace(str(tmp_path / "priced"))
    space.prepare()
    with space.writing(space.in_output("part")) as sink:
        sink.write(b"a half")
        sink.flush()
        assert space.list_files(space.output) == []
        assert len(space.list_files(space.in_work(UNFINISHED))) == 1
    assert len(space.list_files(space.output)) == 1


@pytest.mark.parametrize("is_forced", [False, True])
@pytest.mark.parametrize(
    "body", [b"{}", b'{"name": "Site"}', b"", b"[" * 100_000, b'{"plan": "\xff"}']
)
def test_a_folder_with_another_manifest_is_kept(
    tmp_path: Path, source: Path, body: bytes, *, is_forced: bool
) -> None:
    """Web applications have a `manifest.json` too."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_bytes(body)
    (site / "index.html").write_text("precious")
    before = content_of(site)

    with pytest.raises(OutputExists, match="no output of this command"):
        price(source, output=site, is_forced=is_forced)

    assert content_of(site) == before


@pytest.mark.parametrize("change", [{"format_version": 999}, {"outputs": None}])
def test_a_manifest_of_another_form_is_kept(
    source: Path, output: Path, change: dict[str, Any]
) -> None:
    """It may name files that this version does not know."""
    manifest = output / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_bytes()) | change))
    before = content_of(output)

    with pytest.raises(OutputExists, match="no output of this command"):
        price(source, output=output, is_forced=True)

    assert content_of(output) == before


def test_a_folder_named_as_a_manifest_is_kept(tmp_path: Path, source: Path) -> None:
    """It is read as a file of no output."""
    (tmp_path / "site" / "manifest.json").mkdir(parents=True)

    with pytest.raises(OutputExists, match="no output of this command"):
        price(source, output=tmp_path / "site", is_forced=True)


OTHER_FILES = (
    "thesis.txt",
    "manifest.json.bak",
    "messages/day=2024-04-29/notes.txt",
    "messages/day=2024-04-29/part-99999.parquet",
    "notes/thesis.txt",
)


@pytest.mark.parametrize("name", OTHER_FILES)
def test_output_with_files_of_others_is_kept(
    source: Path, output: Path, name: str
) -> None:
    """Only files that the manifest lists are removed; the message names another."""
    (output / name).parent.mkdir(exist_ok=True)
    (output / name).write_text("precious")
    before = content_of(output)

    with pytest.raises(OutputExists, match=name):
        price(source, output=output, is_forced=True)

    assert content_of(output) == before


def test_a_link_to_a_folder_in_the_output_is_kept(
    tmp_path: Path, source: Path, output: Path
) -> None:
    """Neither the link nor its folder is of this command."""
    (tmp_path / "mine").mkdir()
    (output / "messages" / "mine").symlink_to(tmp_path / "mine")

    with pytest.raises(OutputExists, match="messages/mine"):
        price(source, output=output, is_forced=True)

    assert (output / "messages" / "mine").is_symlink()


def test_files_that_come_during_the_run_are_kept(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may take hours."""

    def add(*args: Any) -> Any:
        (output / "thesis.txt").write_text("precious")
        return write_totals(*args)

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_totals", add)
        with pytest.raises(OutputExists, match=r"thesis\.txt"):
            price(source, output=output, is_forced=True)
    assert (output / "thesis.txt").read_text() == "precious"

    (output / "thesis.txt").unlink()
    assert price(source, output=output, is_forced=True).messages == 1


@pytest.mark.parametrize("is_forced", [False, True])
@pytest.mark.parametrize("has_target", [False, True])
def test_a_link_is_no_output(
    tmp_path: Path, source: Path, output: Path, *, has_target: bool, is_forced: bool
) -> None:
    """It is neither replaced nor followed: what it names stays, and its neighbours."""
    (tmp_path / "link").symlink_to(output)
    before = content_of(output)
    if not has_target:
        shutil.rmtree(output)

    with pytest.raises(OutputExists, match="link"):
        price(source, output=tmp_path / "link", is_forced=is_forced)

    assert (tmp_path / "link").is_symlink()
    assert not has_target or content_of(output) == before


def test_output_without_all_of_its_files_is_replaced(
    source: Path, output: Path
) -> None:
    """Someone may have removed a part."""
    before = content_of(output)
    shutil.rmtree(output / "messages")

    price(source, output=output, is_forced=True)

    assert content_of(output) == before


@pytest.mark.parametrize("is_forced", [False, True])
def test_a_folder_with_the_name_of_the_work_is_kept(
    tmp_path: Path, source: Path, *, is_forced: bool
) -> None:
    """The work is removed at the end, so it may have no files of others."""
    work = tmp_path / ".out.work"
    work.mkdir()
    (work / "thesis.txt").write_text("precious")

    with pytest.raises(OutputExists, match="no work of this command"):
        price(source, output=tmp_path / "out", is_forced=is_forced)

    assert [each.name for each in work.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "names",
    [[], ["units"], ["units", "parts", "output"], ["replaced", "reports.json", "run"]],
)
def test_work_of_a_run_that_was_killed_without_its_lock_is_used(
    tmp_path: Path, source: Path, names: list[str]
) -> None:
    """It has no lock yet, or no longer."""
    work = tmp_path / ".out.work"
    for name in names:
        (work / name).parent.mkdir(exist_ok=True)
        if name in {"reports.json", "run"}:
            (work / name).write_bytes(b"")
        else:
            (work / name).mkdir()

    assert price(source, output=tmp_path / "out").messages == 1
    assert not work.exists()


GCS = ("gs", "gcs")


def test_both_schemes_of_a_store_are_the_same() -> None:
    """A run that continues has the same input then, and its output is no input."""
    names = {name_of(f"{each}://bucket/in", "bucket/in/a b.csv") for each in GCS}
    (name,) = names
    assert locate(name)[1] == "bucket/in/a b.csv"
    for scheme in GCS:
        is_own = run._own_paths(Workspace(f"{scheme}://bucket/in"))
        assert is_own(name)
        assert not is_own(name.replace("/in/", "/in2/"))
