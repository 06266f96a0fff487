"""The system endpoints: index and metrics."""

import asyncio
from collections.abc import Callable, Iterable

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service.observability import metrics
from service.web.static_pages import NOT_BUILT, read_dashboard
from service.web.system import LINKS, OPTIONAL_LINKS, PAGE, VERSION
from tests.conftest import MakeClient

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"

Parse = Callable[[str], Iterable[Metric]]


# --- index --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{}, {"Accept": "*/*"}, {"Accept": "application/json"}], ids=str
)
async def test_a_program_gets_the_links(
    client: MakeClient, headers: dict[str, str]
) -> None:
    """The index has name, version and links."""
    response = await (await client()).get("/", headers=headers)

    assert response.status == 200
    assert response.headers["Vary"] == "Accept"
    assert not {"RateLimit", "RateLimit-Policy"} & response.headers.keys()
    body = await response.json()
    links = body.pop("links")
    assert body == {"name": "copilot-usage", "version": VERSION}
    assert LINKS.items() <= links.items()


async def test_links_are_those_that_the_settings_enable(client: MakeClient) -> None:
    """Programs read from the index which parts the service has."""
    for is_enabled in (True, False):
        periods = {"enabled": is_enabled}
        service = await client(periods=periods)
        links = (await (await service.get("/")).json())["links"]
        assert ("periods" in links) == is_enabled
        assert ("changes" in links) == is_enabled
        assert links.items() <= (LINKS | OPTIONAL_LINKS).items()


async def test_a_browser_is_redirected_to_a_page(client: MakeClient) -> None:
    """The redirect stays on this host, and caches know what it depends on."""
    response = await (await client()).get(
        "/", headers={"Accept": BROWSER}, allow_redirects=False
    )

    assert response.status == 303
    assert response.headers["Location"] == PAGE
    assert response.headers["Vary"] == "Accept"
    assert response.headers["X-Request-ID"]


@pytest.mark.parametrize("path", LINKS.values(), ids=LINKS.keys())
async def test_every_link_exists(client: MakeClient, path: str) -> None:
    """Every link answers; the dashboard needs a build."""
    response = await (await client()).get(path)

    is_missing = path == PAGE and read_dashboard() == NOT_BUILT
    assert response.status == (404 if is_missing else 200)
    assert (response.content_type == "text/html") == (path in {PAGE, "/docs"})
    await response.read()


# --- metrics ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "accept, parse",
    [
        ("text/plain;version=1.0.0", text_string_to_metric_families),
        (OPENMETRICS, openmetrics.text_string_to_metric_families),
    ],
    ids=["text", "openmetrics"],
)
async def test_both_formats_are_valid_and_complete(
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
        "copilot_usage_answer_age_seconds",
        "copilot_usage_build_info",
    } <= names


async def test_scrapes_at_once_share_one_exposition(
    client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of scrapes does not block the event loop, whatever they accept."""
    exposed: list[str] = []
    expose = metrics.expose

    def count(accept: str) -> tuple[bytes, str]:
        exposed.append(accept)
        return expose(accept)

    monkeypatch.setattr(metrics, "expose", count)
    service = await client()

    fields = [{"Accept": f"text/plain, text/x-{number}"} for number in range(100)]
    scrapes = [service.get("/metrics", headers=each) for each in fields]
    answers = await asyncio.gather(*scrapes)

    assert {each.status for each in answers} == {200}
    assert 0 < len(exposed) < 50


async def test_scrapers_have_no_parameters(client: MakeClient) -> None:
    """A parameter that would be ignored is refused."""
    answer = await (await client()).get("/metrics", params={"name[]": "some"})

    assert answer.status == 400
