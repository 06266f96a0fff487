"""Metrics of calls to the upstream."""

from typing import Final

import pytest

from service.sandbox.server import RunningSandbox
from service.upstream.circuit_breaker import CircuitState
from tests.conftest import MakeClient, always, message, report
from tests.metric_samples import Read, value

TRY: Final = "http_client_request_duration_seconds"
RETRIES: Final = "copilot_usage_upstream_retries_total"


async def test_tries_are_counted_by_template_and_outcome(
    client: MakeClient, sandbox: RunningSandbox, added: Read
) -> None:
    """A status is an outcome; ids of reports are in no label."""
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_messages([message(1, report_id=7), message(2, report_id="x")])

    assert (await (await client()).get("/usage")).status == 200

    counts = {
        (template, outcome): added(
            f"{TRY}_count",
            http_request_method="GET",
            url_template=template,
            outcome=outcome,
        )
        for template, outcome in (
            ("/messages/current-period", "200"),
            ("/reports/{id}", "200"),
            ("/reports/{id}", "404"),
        )
    }
    assert set(counts.values()) == {1}
    ids = {"http_request_method": "GET", "url_template": "/reports/7"}
    assert added(f"{TRY}_count", **ids, outcome="200") == 0


@pytest.mark.parametrize(
    "fault, outcome",
    [
        ("server_error", "500"),
        ("reset", "ConnectionDropped"),
        ("truncated", "MalformedBody"),
    ],
)
async def test_retries_are_counted_by_their_reason(
    client: MakeClient,
    sandbox: RunningSandbox,
    added: Read,
    fault: str,
    outcome: str,
) -> None:
    """Every try is counted, and every retry with its reason."""
    sandbox.sandbox.faults = always(fault)

    await (await client(upstream={"attempts": 3})).get("/usage")

    tried = {"http_request_method": "GET", "url_template": "/messages/current-period"}
    assert added(f"{TRY}_count", **tried, outcome=outcome) == 3
    assert added(RETRIES, upstream="copilot", reason=outcome) == 2


async def test_refused_retries_are_counted(
    client: MakeClient, sandbox: RunningSandbox, added: Read
) -> None:
    """An exhausted retry budget has its own metric."""
    sandbox.sandbox.faults = always("server_error")

    upstream = {"attempts": 3, "retry_floor": 1, "retry_rate": 0.0}
    await (await client(upstream=upstream)).get("/usage")

    refused = "copilot_usage_upstream_retries_refused_total"
    assert added(refused, upstream="copilot", reason="budget") == 1
    assert added(RETRIES, upstream="copilot", reason="500") == 1


async def test_the_state_of_the_circuit_is_a_metric(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """The metric follows the circuit from closed to open."""

    def states() -> dict[str, float]:
        name = "copilot_usage_upstream_breaker_state"
        return {
            each: value(name, upstream="copilot", state=each) for each in CircuitState
        }

    sandbox.sandbox.faults = always("server_error")
    breaker = {"window_calls": 2, "minimum_calls": 2}
    service = await client(breaker=breaker, upstream={"attempts": 2})
    assert states() == {"closed": 1, "open": 0, "half_open": 0}

    await service.get("/usage")

    assert states() == {"closed": 0, "open": 1, "half_open": 0}
