"""The metrics as a scraper gets them."""

from collections.abc import Callable, Iterable

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import MakeClient

OPENMETRICS = "application/openmetrics-text;version=1.0.0"

Parse = Callable[[str], Iterable[Metric]]


@pytest.mark.parametrize(
    "accept, expected",
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=1.0.0", "text/plain; version=1.0.0; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (
            f"{OPENMETRICS};q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ],
    ids=["none", "any", "browser", "text", "openmetrics", "prometheus"],
)
async def test_the_form_is_the_one_that_the_scraper_accepts(
    client: MakeClient, accept: str | None, expected: str
) -> None:
    """Prometheus' text form goes to all who do not ask for another."""
    headers = {"Accept": accept} if accept else {}
    answer = await (await client()).get("/metrics", headers=headers)

    told = answer.headers["Content-Type"].removesuffix("; escaping=underscores")
    assert answer.status == 200
    assert told == expected
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize(
    "accept, parse",
    [
        ("text/plain;version=1.0.0", text_string_to_metric_families),
        (OPENMETRICS, openmetrics.text_string_to_metric_families),
    ],
    ids=["text", "openmetrics"],
)
async def test_both_forms_are_valid_and_complete(
    client: MakeClient, accept: str, parse: Parse
) -> None:
    """A strict parser reads the answer, and finds the service's metrics in it."""
    service = await client()
    await service.get("/usage")
    answer = await service.get("/metrics", headers={"Accept": accept})

    names = {family.name for family in parse(await answer.text())}
    assert {
        "http_server_request_duration_seconds",
        "http_client_request_duration_seconds",
        "copilot_usage_refresh_duration_seconds",
        "copilot_usage_held_age_seconds",
        "copilot_usage_build_info",
    } <= names


async def test_scrapers_have_no_parameters(client: MakeClient) -> None:
    """A parameter that would be ignored is refused."""
    answer = await (await client()).get("/metrics", params={"name[]": "some"})

    assert answer.status == 400


async def test_head_tells_only_the_headers(client: MakeClient) -> None:
    """HEAD is answered as for any resource."""
    answer = await (await client()).head("/metrics")

    assert answer.status == 200
    assert answer.content_type == "text/plain"
    assert await answer.read() == b""
