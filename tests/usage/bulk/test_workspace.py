"""Files of a run's work folder, which workers of several machines write."""

from pathlib import Path

from service.usage.bulk.workspace import Workspace


def test_two_writers_of_a_file_do_not_meet(tmp_path: Path) -> None:
    """A task may run twice at once; process ids of two machines may be equal."""
    space, path = Workspace(str(tmp_path / "priced")), tmp_path / "unit"
    with space.writing(str(path)) as first, space.writing(str(path)) as second:
        first.write(b"the whole unit")
        second.write(b"the whole unit")
    assert [each.name for each in tmp_path.iterdir()] == ["unit"]
    assert path.read_bytes() == b"the whole unit"
