"""The documentation page: complete, self-contained, and usable by everyone."""

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from typing import Final

import msgspec
import pytest
from aiohttp import web

from service.app import create_app
from service.web.docs import DOCUMENTATION, render
from service.web.docs_page import Field, JsonObject, PageView
from service.web.openapi import describe
from service.web.routes import Endpoints, NoParameters
from tests.conftest import MakeClient, MakeSettings

HEADING: Final = re.compile(r"h([1-6])")


class Page(HTMLParser):
    """The elements of a page, in order, each with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def values(self, attribute: str) -> list[str]:
        """Every value that an attribute has anywhere."""
        return [each[attribute] for _, each in self.elements if attribute in each]

    def tags(self) -> Counter[str]:
        """Count each element."""
        return Counter(tag for tag, _ in self.elements)


@pytest.fixture
def document(settings: MakeSettings) -> JsonObject:
    """The document of the real application."""
    with_all = settings(events={"enabled": True}, vehicles={"enabled": True})
    decoded: JsonObject = msgspec.json.decode(
        create_app(with_all)[DOCUMENTATION].render().document
    )
    return decoded


@pytest.fixture
def page(document: JsonObject) -> Page:
    """The page of the real application."""
    return Page(render(document))


def flatten(fields: list[Field]) -> list[Field]:
    """The fields and all their members."""
    return [each for field in fields for each in (field, *flatten(field.members))]


# --- loaded resources ---------------------------------------------------------------


async def test_policy_allows_the_style_by_its_hash(client: MakeClient) -> None:
    """The style that is served is the one whose hash the policy names."""
    answer = await (await client()).get("/docs")
    _, _, rest = (await answer.text()).partition("<style>")
    style, _, _ = rest.partition("</style>")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert len(style) > 100
    assert f"style-src 'sha256-{digest}'" in policy


async def test_page_refers_to_nothing_foreign(client: MakeClient) -> None:
    """Every reference is a place on the page, or answers 200 on the same origin."""
    http = await client()
    page = Page(await (await http.get("/docs")).text())
    references = {*page.values("href"), *page.values("src")} - {"data:,"}
    places = {f"#{each}" for each in page.values("id")}
    elsewhere = references - places
    assert len(references & places) > 10
    assert elsewhere == {"/openapi.json"}
    for path in elsewhere:
        assert (await http.get(path)).status == 200
    assert not re.search(r"https?://|@import|url\(|//", page.text)


def test_page_has_no_script(page: Page) -> None:
    """No script, no handler in an attribute, no style in one: the policy forbids it."""
    assert not page.tags().keys() & {"script", "iframe", "object", "embed", "img"}
    attributes = {name for _, each in page.elements for name in each}
    assert "style" not in attributes
    assert not [name for name in attributes if name.startswith("on")]


# --- accessibility -----------------------------------------------------------------


def test_page_has_landmarks_and_names_for_them(page: Page) -> None:
    """Screen readers find header, navigation and content, each part by its title."""
    tags = page.tags()
    for landmark in ("header", "nav", "main", "h1", "title"):
        assert tags[landmark] == 1
    assert ("html", {"lang": "en"}) in page.elements
    assert all(each["aria-label"] for tag, each in page.elements if tag == "nav")
    assert set(page.values("aria-labelledby")) <= set(page.values("id"))
    assert page.values("href")[1] == "#main"


def test_ids_are_unique(page: Page) -> None:
    """A link leads to one place."""
    assert [each for each, n in Counter(page.values("id")).items() if n > 1] == []


def test_headings_skip_no_level(page: Page) -> None:
    """The outline has no holes."""
    found = [HEADING.fullmatch(tag) for tag, _ in page.elements]
    levels = [int(each[1]) for each in found if each]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


# --- content ------------------------------------------------------------------


def test_page_shows_every_operation_and_problem(
    document: JsonObject, page: Page
) -> None:
    """Each operation is a place on the page, aliases in words; so is each code."""
    places = set(page.values("id"))
    for path, item in document["paths"].items():
        assert f"<code>{path}</code>" in page.text
        for each in item.values():
            assert each.get("x-alias-of", each["operationId"]) in places
    assert set(document["components"]["examples"]) <= places


def test_page_shows_every_field(document: JsonObject, page: Page) -> None:
    """Parameters, headers and members of answers are all named."""
    view = PageView(document, "host")
    fields = [*view.shared_parameters(), *view.shared_headers()]
    for operation in view.operations():
        answer = operation.answer
        fields += [*operation.parameters, *answer.headers, *answer.members]
    names = {each.name for each in flatten(fields)}
    assert {"limit", "X-Request-ID", "Retry-After", "Usage-Plan", "steps"} <= names
    assert not [name for name in names if f"<code>{name}</code>" not in page.text]


def test_operation_shows_its_details(document: JsonObject) -> None:
    """An operation shows aliases, bounds, media types, problems and commands."""
    view = PageView(document, "host")
    operation = next(each for each in view.operations() if each.id == "read_usage")
    limit = next(each for each in operation.parameters if each.name == "limit")
    assert operation.aliases == ["/v1/usage"]
    assert limit.kind == "integer, at least 1, at most 100000"
    assert limit.presence == ""
    assert ("406", "not_acceptable") in operation.problems
    assert operation.commands == [
        "curl 'host/usage'",
        "curl 'host/usage?sort=credits_used:desc;report_name:asc'",
        "curl -H 'Accept: application/x-ndjson' 'host/usage'",
        "curl -H 'Accept: text/csv' 'host/usage'",
    ]


def test_commands_can_be_run(document: JsonObject) -> None:
    """They have the required parameters, and no braces, which curl would expand."""
    view = PageView(document, "host")
    remove = next(each for each in view.operations() if each.id == "remove_vehicle")
    assert remove.commands == [
        "curl -X DELETE 'host/vehicles/remove?vin=1XPWD40X1ED215307'"
    ]
    operation = next(each for each in view.operations() if each.id == "explain_message")
    assert operation.commands == ["curl 'host/usage/<message_id>'"]
    assert operation.parameters[0].kind == "string, in the path"
    assert operation.parameters[0].presence == "required"


async def test_commands_call_the_requested_host(client: MakeClient) -> None:
    """The host of the request is used, and escaped."""
    http = await client()
    answer = await http.get("/docs", headers={"Host": "usage.test"})
    assert "usage.test/usage&#39;" in await answer.text()
    forged = await http.get("/docs", headers={"Host": "<b>&'"})
    assert "&lt;b&gt;&amp;&#x27;/usage" in await forged.text()


class Described(msgspec.Struct, frozen=True):
    """Parameters with `<i>markup</i>` in their description."""

    colour: str = "<u>red</u>"
    shade: int | str | None = None


def test_text_is_escaped_and_backticks_are_code() -> None:
    """No text of the document becomes markup, except backticks."""
    made = Endpoints()

    @made.get("/a", parameters=Described, answer=dict[str, int])
    async def read_a(_: web.Request, __: Described) -> web.StreamResponse:
        """Read `a<b>` & <em>more</em>.

        At length.
        """
        raise NotImplementedError

    @made.get("/b", parameters=NoParameters, answer=list[int])
    async def read_b(_: web.Request, __: NoParameters) -> web.StreamResponse:
        """Read b."""
        raise NotImplementedError

    text = render(describe(made))
    assert "<code>a&lt;b&gt;</code> &amp; &lt;em&gt;more&lt;/em&gt;." in text
    assert "<p>At length.</p>" in text
    assert "string, &lt;u&gt;red&lt;/u&gt; by default" in text
    assert "integer or string" in text or "string or integer" in text
