"""The page docs/fault-matrix.md, from the outcomes of all cells."""

from collections.abc import Mapping
from itertools import groupby
from typing import Final

from tests.faults.cells import (
    AGES_S,
    MAX_WAIT_S,
    STALE_IF_ERROR_S,
    TARGETS,
    TTL_S,
    Cell,
    Outcome,
)

PREFACE: Final = f"""# Fault matrix

This page lists what a caller of `GET /usage` gets when the upstream fails. It depends
on the fault, on the call that fails, and on the age of the cached answer.

A test checks each cell over sockets. `.venv/bin/python -m tests.faults.matrix` runs all
of them and prints this page from the results. Its table is `tests/faults/cells.py`.

| column | meaning |
| --- | --- |
| seen as | how the log names the failure: a status, or an `error.type` |
| tries | tries of the failing call; the service is set to two at most |
| cold | no answer is cached |
| fresh | the cached answer is {AGES_S["fresh"]} s old |
| stale | the cached answer is {AGES_S["stale"]} s old |
| expired | the cached answer is {AGES_S["expired"]} s old |

The settings are `ttl_s = {TTL_S}`, `stale_while_revalidate_s = 0` and
`stale_if_error_s = {STALE_IF_ERROR_S}`. With `stale_wait_s = {MAX_WAIT_S:g}`, a caller
waits until the refresh has ended. By default it does not wait for one that hangs, and
gets the stale answer, the bill before. After the answer was cached, the upstream has
received another message. The bill *before* is the cached one, and the bill *now*
includes that message. Each cell also has the headers that describe the answer.
"""


EVENTS: Final = """\
## Log events

The events appear in this order; the steps of prices are omitted. With two tries,
`upstream.retry` and another `upstream.request` follow the first `upstream.request`.
"""

CACHE: Final = "copilot-usage;"
"""The beginning of `Cache-Status`, which the page omits."""


def render(outcomes: Mapping[Cell, Outcome]) -> str:
    """Return the page, from the observed or expected outcomes."""
    sections = [
        _render_target(
            name, {c: each for c, each in outcomes.items() if c.target == name}
        )
        for name in TARGETS
    ]
    return "\n".join([PREFACE, *sections, _render_events(outcomes)])


def _render_target(name: str, outcomes: Mapping[Cell, Outcome]) -> str:
    target = TARGETS[name]
    head = ["fault", "seen as", "tries", *target.states]
    lines = [f"## {target.title}\n", _row(head), _row(["---"] * len(head))]
    for fault, cells in groupby(outcomes, key=lambda cell: cell.fault):
        row = [outcomes[cell] for cell in cells]
        failed = next(each for each in row if each.failure)
        names = [fault, f"`{failed.failure}`", str(failed.tries)]
        lines.append(_row([*names, *map(_describe, row)]))
    return "\n".join(lines) + "\n"


def _render_events(outcomes: Mapping[Cell, Outcome]) -> str:
    sequences: dict[str, list[str]] = {}
    for cell, each in outcomes.items():
        events = " ".join(each.events).replace(" upstream.retry upstream.request", "")
        shown = " → ".join(f"`{event}`" for event in events.split())
        answer = f"{each.status}, {cell.state}, {cell.target}"
        if answer not in sequences.setdefault(shown, []):
            sequences[shown].append(answer)
    rows = [_row(["<br>".join(answers), shown]) for shown, answers in sequences.items()]
    head = [_row(["answer, state, failing call", "events"]), _row(["---", "---"])]
    return "\n".join([EVENTS, *head, *rows]) + "\n"


def _describe(outcome: Outcome) -> str:
    answer = f"`{outcome.code}`" if outcome.code else f"the bill {outcome.bill}"
    headers = [f"`{name}: {value}`" for name, value in outcome.headers.items()]
    return ", ".join([f"**{outcome.status}** {answer}", *headers]).replace(CACHE, "…;")


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
