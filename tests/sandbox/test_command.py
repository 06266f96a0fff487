"""Options of the sandbox command: one for each field, with the structs' bounds."""

import re
from typing import Any, Final

import msgspec
import pytest
from typer.testing import CliRunner

from service import command_line
from service.observability import log_output
from service.sandbox import command
from service.sandbox.command import SWITCHES, BadOption, option_name, sandbox_options
from service.sandbox.fake_vpic_faults import VPIC_FAULTS
from service.sandbox.options import Faults, SandboxOptions
from service.server import runner as serving

FIELDS: Final = [
    *(name for name in SandboxOptions.__struct_fields__ if name != "faults"),
    *Faults.__struct_fields__,
]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[SandboxOptions]:
    """The options of each sandbox that the command would serve."""
    options: list[SandboxOptions] = []
    monkeypatch.setattr(
        command, "serve_sandbox", lambda chosen, *_: options.append(chosen)
    )
    monkeypatch.setattr(serving, "run", lambda *_: None)
    # The runner of commands has streams of its own.
    monkeypatch.setattr(log_output, "replace_streams", lambda: None)
    return options


def call(*arguments: str) -> str:
    """Call `copilot-usage sandbox`; return its output."""
    result = CliRunner().invoke(command_line.cli, ["sandbox", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_every_fault_is_an_option() -> None:
    """The switches are the faults of the sandbox."""
    assert sorted(map(option_name, VPIC_FAULTS)) == sorted(SWITCHES)


def test_help_lists_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """The help lists each field of the structs, with its description."""
    monkeypatch.setenv("COLUMNS", "200")
    printed = re.sub(r"\x1b\[[\d;]*m", "", call("--help"))
    assert [name for name in FIELDS if f"{option_name(name)} " not in printed] == []
    assert "200 with a page of HTML." in printed
    assert "[default: 110]" in printed


def test_options_set_their_fields(served: list[SandboxOptions]) -> None:
    """Sizes, delays and faults have the given values."""
    call("--messages", "5", "--reports", "2", "--seed", "-1", "--latency-ms", "1.5")
    call("--error-rate", "0.25", "--hang", "0.5", "--retry-after", "")
    call("--reset", "1", "--fault-path", "/reports", "--fault-times", "3")
    assert served == [
        SandboxOptions(messages=5, reports=2, seed=-1, latency_ms=1.5),
        SandboxOptions(error_rate=0.25, faults=Faults(hang=0.5, retry_after="")),
        SandboxOptions(faults=Faults(reset=1.0, path="/reports", times=3)),
    ]


@pytest.mark.parametrize(
    "arguments",
    [["--hang"], ["--hang=1"], ["--hang", "--html", "0"], ["--html", "0", "--hang"]],
    ids=" ".join,
)
def test_a_fault_without_probability_is_certain(
    arguments: list[str], served: list[SandboxOptions]
) -> None:
    """The probability of a fault may be omitted at any position."""
    call(*arguments)
    assert served == [SandboxOptions(faults=Faults(hang=1.0))]


@pytest.mark.parametrize(
    "field, value, reason",
    [
        ("messages", -1, "--messages: expected `int` >= 0"),
        ("messages", 1_000_001, "--messages: expected `int` <= 1000000"),
        ("latency_ms", -1.0, "--latency-ms: expected `float` >= 0.0"),
        ("error_rate", 2.0, "--error-rate: expected `float` <= 1.0"),
        ("slow_drip", 1.5, "--slow-drip: expected `float` <= 1.0"),
        ("times", -1, "--fault-times: expected `int` >= 0"),
    ],
)
def test_an_invalid_value_is_refused(field: str, value: Any, reason: str) -> None:
    """The error for a value out of bounds names the option."""
    defaults = msgspec.to_builtins(SandboxOptions())
    chosen = {**defaults, **defaults["faults"], field: value}
    with pytest.raises(BadOption) as raised:
        sandbox_options(chosen)
    assert str(raised.value) == reason
