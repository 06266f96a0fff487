"""Output of the commands: settings as a table or TOML, progress, closed pipes."""

import errno
import io
import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import typer

from service.cli.terminal import (
    OutputFailed,
    print_settings,
    standard_output,
)
from service.settings import load

PASSWORD: Final = {"COPILOT_USAGE_UPSTREAM__BASE_URL": "http://me:pa55@up.test/a"}


class Failing(io.BytesIO):
    """A standard output whose writes fail."""

    def __init__(self, number: int, descriptor: int) -> None:
        super().__init__()
        self._number = number
        self._descriptor = descriptor

    @property
    def buffer(self) -> "Failing":
        return self

    def fileno(self) -> int:
        return self._descriptor

    def flush(self) -> None:
        raise OSError(self._number, os.strerror(self._number))


def pretend_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make standard output a terminal without colours, until the test ends."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


def test_settings_for_programs_are_toml(capsys: pytest.CaptureFixture[str]) -> None:
    """Piped, each setting is a line of TOML with its origin as the comment."""
    loaded = load(environment={"COPILOT_USAGE_SERVER__HOST": 'a"\\\n\x7f\u2028é'})
    print_settings(loaded)
    printed = capsys.readouterr().out
    values = tomllib.loads(printed)
    assert values["server"]["host"] == 'a"\\\n\x7f\u2028é'
    assert values["logging"]["access"] is True
    assert values["upstream"]["timeout_s"] == loaded.settings.upstream.timeout_s
    lines = printed.removesuffix("\n").split("\n")
    assert len(lines) == len(loaded.origins)
    assert [line.split("  # ")[1] for line in lines] == list(loaded.origins.values())


def test_origins_stay_on_their_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any file name is a comment of one line."""
    file = tmp_path / "a\nb.toml"
    file.write_text("[server]\nport = 1")
    print_settings(load(file))
    assert f"server.port = 1  # {tmp_path}/a?b.toml\n" in capsys.readouterr().out


def test_settings_for_people_are_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal there is a table, without markup in values."""
    pretend_terminal(monkeypatch)
    print_settings(load(environment={"COPILOT_USAGE_SERVER__HOST": "[bold]"}))
    lines = capsys.readouterr().out.split("\n")
    assert lines[0].split() == ["setting", "value", "from"]
    assert lines[1].split() == ["server.host", '"[bold]"', "environment"]


@pytest.mark.parametrize("is_terminal", [True, False], ids=["table", "TOML"])
def test_settings_hide_secrets(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    is_terminal: bool,
) -> None:
    """Neither a table nor TOML has a password."""
    if is_terminal:
        pretend_terminal(monkeypatch)
    print_settings(load(environment=PASSWORD))
    printed = capsys.readouterr().out
    assert '"http://me:***@' in printed  # and the rest, where a table has room
    assert (" = " in printed) is not is_terminal
    assert "pa55" not in printed


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    """An open file, to be the standard output that fails."""
    with (tmp_path / "out").open("wb") as out:
        yield out.fileno()


def test_a_reader_that_left_ends_the_command_quietly(
    monkeypatch: pytest.MonkeyPatch, descriptor: int
) -> None:
    """A closed pipe is no error, and ends the output."""
    monkeypatch.setattr(sys, "stdout", Failing(errno.EPIPE, descriptor))
    with pytest.raises(typer.Exit) as raised, standard_output():
        pass
    assert raised.value.exit_code == 0
    assert os.path.samestat(os.fstat(descriptor), Path(os.devnull).stat())


def test_a_failed_output_is_an_error(
    monkeypatch: pytest.MonkeyPatch, descriptor: int
) -> None:
    """A full disk is an error, in one line."""
    monkeypatch.setattr(sys, "stdout", Failing(errno.ENOSPC, descriptor))
    with pytest.raises(OutputFailed) as raised, standard_output():
        pass
    assert str(raised.value) == "standard output: No space left on device"


def write_and_fail() -> None:
    """Write a line, then raise another error."""
    with standard_output() as sink:
        sink.write(b"good\n")
        raise ValueError("bad")


def test_an_error_inside_is_not_the_outputs(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """Another error is raised, after the output is flushed."""
    with pytest.raises(ValueError, match=r"^bad$"):
        write_and_fail()
    assert capfdbinary.readouterr().out == b"good\n"
