"""What the commands show: settings as a table or as TOML, progress, broken pipes."""

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

from service.settings import load
from service.terminal import (
    OutputFailed,
    announce,
    input_from,
    print_settings,
    progress_on,
    standard_output,
)

PASSWORD: Final = {"COPILOT_USAGE_UPSTREAM__BASE_URL": "http://me:pa55@up.test/a"}


class Failing(io.BytesIO):
    """A standard output that takes nothing, for a reason of the system's."""

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
    """A file of whatever name is still a comment of one line."""
    file = tmp_path / "a\nb.toml"
    file.write_text("[server]\nport = 1")
    print_settings(load(file))
    assert f"server.port = 1  # {tmp_path}/a?b.toml\n" in capsys.readouterr().out


def test_settings_for_programs_hide_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    """What is piped somewhere holds no password."""
    print_settings(load(environment=PASSWORD))
    printed = capsys.readouterr().out
    assert 'upstream.base_url = "http://me:***@up.test/a"  # environment' in printed
    assert "pa55" not in printed


def test_settings_for_people_are_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal there is a table, and what looks like markup is left as it is."""
    pretend_terminal(monkeypatch)
    print_settings(load(environment={"COPILOT_USAGE_SERVER__HOST": "[bold]"}))
    lines = capsys.readouterr().out.split("\n")
    assert lines[0].split() == ["setting", "value", "from"]
    assert lines[1].split() == ["server.host", '"[bold]"', "environment"]


def test_the_table_hides_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A password is no more for people than for programs."""
    pretend_terminal(monkeypatch)
    print_settings(load(environment=PASSWORD))
    printed = capsys.readouterr().out
    assert '"http://me:***@' in printed  # and the rest, where it has room
    assert " = " not in printed
    assert "pa55" not in printed


@pytest.mark.parametrize("err", [True, False], ids=["stderr", "stdout"])
def test_announce(err: bool, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: FBT001
    """Where to look is said on the stream that is free for it."""
    announce("http://[::1]:80", {"usage": "/usage"}, err=err)
    captured = capsys.readouterr()
    text = (
        "Listening on http://[::1]:80, until Ctrl-C\n  usage: http://[::1]:80/usage\n"
    )
    assert (captured.err, captured.out) == ((text, "") if err else ("", text))


def test_standard_output_passes_bytes_on(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """What is written is out when the context ends."""
    with standard_output() as sink:
        sink.write(b"\xff\n")
    assert capfdbinary.readouterr().out == b"\xff\n"


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    """An open file, to be the standard output that fails."""
    with (tmp_path / "out").open("wb") as out:
        yield out.fileno()


def test_a_reader_that_left_ends_the_command_quietly(
    monkeypatch: pytest.MonkeyPatch, descriptor: int
) -> None:
    """A broken pipe is the reader's wish: no error, and nothing more is written."""
    monkeypatch.setattr(sys, "stdout", Failing(errno.EPIPE, descriptor))
    with pytest.raises(typer.Exit) as raised, standard_output():
        pass
    assert raised.value.exit_code == 0
    assert os.path.samestat(os.fstat(descriptor), Path(os.devnull).stat())


def test_an_output_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, descriptor: int
) -> None:
    """A full disk is an error, in one line."""
    monkeypatch.setattr(sys, "stdout", Failing(errno.ENOSPC, descriptor))
    with pytest.raises(OutputFailed) as raised, standard_output():
        pass
    assert str(raised.value) == "standard output: No space left on device"


def write_and_fail() -> None:
    """Write a line, then fail at something else."""
    with standard_output() as sink:
        sink.write(b"good\n")
        raise ValueError("bad")


def test_an_error_inside_is_not_the_outputs(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """An error of the work passes, after what was written is out."""
    with pytest.raises(ValueError, match=r"^bad$"):
        write_and_fail()
    assert capfdbinary.readouterr().out == b"good\n"


def test_progress_is_for_terminals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where standard error is no terminal, nothing is drawn and the file passes."""
    file = tmp_path / "messages.json"
    file.write_bytes(b"[]")
    with file.open("rb") as source, progress_on(source) as watched:
        assert watched.read() == b"[]"
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_input_is_closed(tmp_path: Path) -> None:
    """A file is open only while it is being read."""
    file = tmp_path / "messages.json"
    file.write_bytes(b"[]")
    with input_from(str(file)) as source:
        assert source.read() == b"[]"
    assert source.closed
