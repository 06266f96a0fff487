"""The sandbox's options: one for each field of its structs, checked by their bounds."""

import re
from typing import Any, Final

import msgspec
import pytest
from typer.testing import CliRunner

from service import __main__, serving
from service.sandbox import command
from service.sandbox.command import SWITCHES, BadOption, option_name, sandbox_options
from service.sandbox.options import Faults, SandboxOptions
from service.sandbox.vpic_faults import VPIC_FAULTS

FIELDS: Final = [
    *(name for name in SandboxOptions.__struct_fields__ if name != "faults"),
    *Faults.__struct_fields__,
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SandboxOptions]:
    """The options of each sandbox that the command would have served."""
    options: list[SandboxOptions] = []
    monkeypatch.setattr(command, "playing", lambda wanted, *_: options.append(wanted))
    monkeypatch.setattr(serving, "run", lambda *_: None)
    return options


def ask(*arguments: str) -> str:
    """Call `copilot-usage sandbox`, and give what it printed."""
    result = CliRunner().invoke(__main__.cli, ["sandbox", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_every_fault_is_an_option() -> None:
    """The options that make faults strike are the faults that the sandbox can play."""
    assert sorted(map(option_name, VPIC_FAULTS)) == sorted(SWITCHES)


def test_help_lists_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field of the structs is an option, with the explanation it has there."""
    monkeypatch.setenv("COLUMNS", "200")
    printed = re.sub(r"\x1b\[[\d;]*m", "", ask("--help"))
    assert [name for name in FIELDS if f"{option_name(name)} " not in printed] == []
    assert "200 with a page of HTML." in printed
    assert "[default: 110]" in printed


def test_without_options_it_is_the_default_sandbox(asked: list[SandboxOptions]) -> None:
    """The structs' defaults are the command's."""
    ask()
    assert asked == [SandboxOptions()]


def test_options_reach_their_fields(asked: list[SandboxOptions]) -> None:
    """Sizes, manner and faults are taken as given."""
    ask("--messages", "5", "--reports", "2", "--seed", "-1", "--latency-ms", "1.5")
    ask("--error-rate", "0.25", "--hang", "0.5", "--retry-after", "")
    ask("--reset", "1", "--fault-path", "/reports", "--fault-times", "3")
    assert asked == [
        SandboxOptions(messages=5, reports=2, seed=-1, latency_ms=1.5),
        SandboxOptions(error_rate=0.25, faults=Faults(hang=0.5, retry_after="")),
        SandboxOptions(faults=Faults(reset=1.0, path="/reports", times=3)),
    ]


@pytest.mark.parametrize(
    "arguments",
    [["--hang"], ["--hang=1"], ["--hang", "--html", "0"], ["--html", "0", "--hang"]],
    ids=" ".join,
)
def test_a_fault_alone_always_strikes(
    arguments: list[str], asked: list[SandboxOptions]
) -> None:
    """A fault's probability may be left out, wherever it stands."""
    ask(*arguments)
    assert asked == [SandboxOptions(faults=Faults(hang=1.0))]


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
def test_impossible_values_are_named(field: str, value: Any, reason: str) -> None:
    """A value out of bounds is refused by the name of its option."""
    defaults = msgspec.to_builtins(SandboxOptions())
    chosen = {**defaults, **defaults["faults"], field: value}
    with pytest.raises(BadOption) as raised:
        sandbox_options(chosen)
    assert str(raised.value) == reason
