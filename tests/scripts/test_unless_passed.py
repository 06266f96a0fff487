"""Checks that are repeated only after a change."""

from pathlib import Path

import pytest

from scripts import unless_passed
from scripts.unless_passed import run_unless_passed

INPUTS = ("sources", "lock")


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with some inputs, in which a check counts how often it runs."""
    monkeypatch.setattr(unless_passed, "ROOT", tmp_path)
    monkeypatch.setattr(unless_passed, "PASSED", tmp_path / ".cache" / "passed")
    (tmp_path / "sources" / "node_modules").mkdir(parents=True)
    (tmp_path / "sources" / "a.py").write_text("a")
    (tmp_path / "sources" / "b.py").write_text("b")
    (tmp_path / "lock").write_text("1")
    return tmp_path


def runs(checkout: Path, *inputs: str, command: str = "true") -> tuple[int, int]:
    """The status of the check, and how often it has run until now."""
    script = f"echo >>runs; {command}"
    status = run_unless_passed("check", inputs or INPUTS, ["sh", "-c", script])
    return status, len((checkout / "runs").read_text())


def test_an_unchanged_check_is_not_repeated(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run says so; what is made from the inputs is none of them."""
    assert runs(checkout) == (0, 1)
    (checkout / "sources" / "node_modules" / "a.js").touch()
    assert runs(checkout) == (0, 1)
    said = "check: passed before, and nothing has changed since\n"
    assert capsys.readouterr().out == said


def test_every_change_repeats_it(checkout: Path) -> None:
    """Contents, names, texts and the command are all part of the key."""
    assert runs(checkout) == (0, 1)
    (checkout / "lock").write_text("2")
    assert runs(checkout) == (0, 2)
    (checkout / "sources" / "a.py").rename(checkout / "sources" / "c.py")
    assert runs(checkout) == (0, 3)
    (checkout / "sources" / "b.py").unlink()
    assert runs(checkout) == (0, 4)
    assert runs(checkout, *INPUTS, "node=24") == (0, 5)
    assert runs(checkout, *INPUTS, "node=26") == (0, 6)
    assert runs(checkout, *INPUTS, "node=26", command=":") == (0, 7)


def test_contents_do_not_run_together(checkout: Path) -> None:
    """A byte that moves from one file to the next is a change."""
    (checkout / "sources" / "a.py").write_text("ab")
    (checkout / "sources" / "b.py").write_text("")
    assert runs(checkout) == (0, 1)
    (checkout / "sources" / "a.py").write_text("a")
    (checkout / "sources" / "b.py").write_text("b")
    assert runs(checkout) == (0, 2)


def test_a_failure_is_repeated(checkout: Path) -> None:
    """Only a success is remembered."""
    assert runs(checkout, command="exit 3") == (3, 1)
    assert runs(checkout, command="exit 3") == (3, 2)


def test_a_change_during_the_check_is_not_taken_for_checked(checkout: Path) -> None:
    """The key of a success is stored only if the inputs have not changed meanwhile."""
    assert runs(checkout, command="echo >>lock") == (0, 1)
    assert runs(checkout, command="echo >>lock") == (0, 2)


def test_a_missing_input_is_an_error(checkout: Path) -> None:
    """A name that is wrong must not make a key that never changes."""
    with pytest.raises(FileNotFoundError):
        runs(checkout, "nothing")
