"""Report of the benchmarks: verdicts, needed tools, and the exit status."""

import sys
from types import ModuleType

import pytest

from benchmarks.__main__ import NAMES, main
from benchmarks.load.processes import Missing
from benchmarks.report import Result, maximum, minimum, show, summarize, unmeasured
from benchmarks.tools import GATE, NEEDS, Need, describe_needs, find_postgresql
from tests.ports import free_port


def found() -> None:
    """Find a tool."""


def lost() -> None:
    """Find no tool."""
    raise Missing("axe is not installed: apt-get install axes")


SAW = Need("saw", frozenset({"wood"}), found)
AXE = Need("axe", frozenset({"wood", "trees"}), lost)


def bench(monkeypatch: pytest.MonkeyPatch, run: object, *needs: Need) -> int:
    """Run a benchmark with the name of an existing one; gives the exit status."""
    module = ModuleType("benchmarks.codec")
    vars(module)["run"] = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(
        "benchmarks.__main__.describe_needs", lambda _: describe_needs(["wood"], needs)
    )
    return main(["codec"])


@pytest.mark.parametrize(
    "names, line",
    [
        (["stone"], ""),
        (
            ["wood"],
            "tools: saw, axe; missing: axe is not installed: apt-get install axes",
        ),
        (
            ["stone", "trees"],
            "tools: axe; missing: axe is not installed: apt-get install axes",
        ),
    ],
    ids=["none", "two", "one"],
)
def test_one_line_names_needed_and_missing_tools(names: list[str], line: str) -> None:
    """Only the tools of the chosen benchmarks are named."""
    assert describe_needs(names, [SAW, AXE]) == line


def test_line_says_that_no_tool_is_missing() -> None:
    """A machine with all tools is told so."""
    assert describe_needs(["wood"], [SAW]) == "tools: saw; none is missing"


def test_needs_name_known_benchmarks() -> None:
    """A tool belongs to benchmarks that exist."""
    assert frozenset().union(*(need.used_by for need in NEEDS)) <= {*NAMES, GATE}


def test_server_that_does_not_listen_is_missing() -> None:
    """A server is a tool too; the reason names its address."""
    port = free_port()
    with pytest.raises(Missing, match=f"127.0.0.1:{port}"):
        find_postgresql(f"postgresql://somebody@127.0.0.1:{port}/test")


def test_unmeasured_figures_are_not_missed() -> None:
    """A figure that was not measured is counted by itself."""
    results = [
        maximum("a", 1, 2),
        minimum("b", 1, 2),
        unmeasured("c", Missing("no axe\nin two lines")),
    ]
    assert results[2] == Result("c", "–", "", None, "no axe")
    assert summarize(results) == "1 met, 1 missed, 1 not measured"


def test_table_shows_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """A figure that was not measured has its reason, and no verdict on its target."""
    show("codec", [unmeasured("decode", "no axe")])
    row = capsys.readouterr().out.splitlines()[-2]
    assert row.split() == ["decode", "–", "not", "measured", "no", "axe"]


def test_missing_tool_ends_no_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A benchmark without its tool is not measured, and the run exits with 0."""
    assert bench(monkeypatch, lost, AXE) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("tools: axe; missing: axe is not installed")
    assert shown.out.endswith("0 met, 0 missed, 1 not measured\n")


def test_missed_target_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Targets depend on the machine, so the run exits with 0 also if one is missed."""
    assert bench(monkeypatch, lambda: [maximum("a", 3, 2)], SAW) == 0
    assert capsys.readouterr().out.endswith("0 met, 1 missed, 0 not measured\n")
