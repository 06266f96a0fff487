"""The documentation page: Swagger UI from this service alone, compressed and cached."""

import re
from importlib.metadata import distribution
from typing import Final

import pytest

from tests.conftest import Client, MakeClient
from tests.web.html_page import Page

CACHED_FOR_EVER: Final = "public, max-age=31536000, immutable"
PLAIN: Final = {"Accept-Encoding": "identity"}


@pytest.fixture
async def service(client: MakeClient) -> Client:
    """Return a service."""
    return await client()


async def page_of(service: Client) -> Page:
    """Return the page."""
    answer = await service.get("/docs")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    return Page(await answer.text())


def addresses(page: Page) -> list[str]:
    """Return the addresses that a page refers to."""
    return [*page.values("href"), *page.values("src")]


async def path_of(service: Client, name: str) -> str:
    """Return the path of a file of the page, by the beginning of its name."""
    found = addresses(await page_of(service))
    return next(f"/{each}" for each in found if each.startswith(f"docs/files/{name}."))


async def test_the_page_loads_from_this_service_alone(service: Client) -> None:
    """Each address is relative, also below the prefix of a proxy, and answers 200."""
    found = addresses(await page_of(service))
    assert len(found) == 6
    for address in found:
        assert re.fullmatch(r"docs/files/[\w.-]+|openapi\.json", address)
        assert (await service.get(f"/{address}")).status == 200


async def test_the_policy_permits_no_inline_script_and_no_inline_style(
    service: Client,
) -> None:
    """The page has none, and its policy says so."""
    page = await page_of(service)
    attributes = {name for _, each in page.elements for name in each}
    assert "style" not in {*page.tags(), *attributes}
    assert not [name for name in attributes if name.startswith("on")]
    assert page.tags()["script"] == len(page.values("src")) == 2
    policy = (await service.get("/docs")).headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    for directive in (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ):
        assert directive in policy.split("; ")


async def test_the_script_is_that_of_the_installed_package(service: Client) -> None:
    """An update of the package updates the page."""
    path = await path_of(service, "swagger-ui-bundle")
    body = await (await service.get(path)).read()
    package = distribution("flask-swagger-ui")
    file = package.locate_file("flask_swagger_ui/dist/swagger-ui-bundle.js")
    with open(str(file), "rb") as opened:  # noqa: ASYNC230, PTH123
        assert body == opened.read()
    assert f'PACKAGE_VERSION:"{package.version}"'.encode() in body


@pytest.mark.parametrize("name", ["swagger-ui-bundle", "swagger-ui", "docs"])
async def test_files_are_compressed_and_cached_for_ever(
    service: Client, name: str
) -> None:
    """Their names change with their contents, so browsers need not ask again."""
    path = await path_of(service, name)
    plain = await service.get(path, headers=PLAIN)
    zipped = await service.get(path, headers={"Accept-Encoding": "gzip"})
    assert plain.headers["Cache-Control"] == CACHED_FOR_EVER
    assert plain.headers["X-Content-Type-Options"] == "nosniff"
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert zipped.headers["Vary"] == "Accept-Encoding"
    assert await zipped.read() == await plain.read()
    assert int(zipped.headers["Content-Length"]) < len(await plain.read())


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_the_page_and_the_document_are_revalidated(
    service: Client, path: str
) -> None:
    """A restart with other settings changes them; unchanged ones get 304."""
    first = await service.get(path)
    assert first.headers["Cache-Control"] == "no-cache"
    known = {"If-None-Match": first.headers["ETag"]}
    again = await service.get(path, headers=known)
    assert again.status == 304
    assert again.headers["ETag"] == first.headers["ETag"]


async def test_the_document_is_compressed(service: Client) -> None:
    """It has hundreds of kilobytes, of which a coding leaves few."""
    plain = await (await service.get("/openapi.json", headers=PLAIN)).read()
    zipped = await service.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert int(zipped.headers["Content-Length"]) * 10 < len(plain)


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2Fdocs.py", "swagger-ui-bundle.js", "docs.html"]
)
async def test_other_files_are_not_served(service: Client, name: str) -> None:
    """Neither those of the folder, nor a file by its name without a hash."""
    assert (await service.get(f"/docs/files/{name}")).status == 404


async def test_head_has_no_body(service: Client) -> None:
    """`HEAD` has the headers of `GET`."""
    path = await path_of(service, "docs")
    for each in (path, "/docs", "/openapi.json"):
        answer = await service.head(each)
        assert answer.status == 200
        assert await answer.read() == b""
