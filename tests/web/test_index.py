"""The front door: links for programs, a page for browsers."""

import pytest

from service.web.dashboard import NOT_BUILT, read_dashboard
from service.web.index import LINKS, PAGE, VERSION
from tests.conftest import MakeClient

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    "headers", [{}, {"Accept": "*/*"}, {"Accept": "application/json"}], ids=str
)
async def test_a_program_gets_the_links(
    client: MakeClient, headers: dict[str, str]
) -> None:
    """Name, version and where to go from here."""
    response = await (await client()).get("/", headers=headers)

    assert response.status == 200
    assert response.headers["Vary"] == "Accept"
    assert await response.json() == {
        "name": "copilot-usage",
        "version": VERSION,
        "links": LINKS,
    }


async def test_a_browser_is_sent_on_to_a_page(client: MakeClient) -> None:
    """The redirect stays on this host, and caches know what it depends on."""
    response = await (await client()).get(
        "/", headers={"Accept": BROWSER}, allow_redirects=False
    )

    assert response.status == 303
    assert response.headers["Location"] == PAGE
    assert response.headers["Vary"] == "Accept"
    assert response.headers["X-Request-ID"]


@pytest.mark.parametrize("path", LINKS.values(), ids=LINKS.keys())
async def test_every_link_leads_somewhere(client: MakeClient, path: str) -> None:
    """No link of the index is dead; the dashboard is there as far as it is built."""
    response = await (await client()).get(path)

    is_missing = path == PAGE and read_dashboard() == NOT_BUILT
    assert response.status == (404 if is_missing else 200)
    assert (response.content_type == "text/html") == (path in {PAGE, "/docs"})
    await response.read()
