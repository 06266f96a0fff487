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
from service.web.docs import DOCUMENT, render
from service.web.docs_view import Field, Json, View
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
        """How often each element occurs."""
        return Counter(tag for tag, _ in self.elements)


@pytest.fixture
def document(settings: MakeSettings) -> Json:
    """The document of the real application."""
    with_all = settings(events={"enabled": True}, vehicles={"enabled": True})
    decoded: Json = msgspec.json.decode(create_app(with_all)[DOCUMENT])
    return decoded


@pytest.fixture
def page(document: Json) -> Page:
    """The page of the real application."""
    return Page(render(document))


def flatten(fields: list[Field]) -> list[Field]:
    """The fields and all their members."""
    return [each for field in fields for each in (field, *flatten(field.members))]


# --- what it loads ------------------------------------------------------------------


async def test_page_is_served_under_a_strict_policy(client: MakeClient) -> None:
    """It is HTML, and all but the page's own style is forbidden."""
    answer = await (await client()).get("/docs")
    assert answer.status == 200
    assert (answer.content_type, answer.charset) == ("text/html", "utf-8")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "*" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


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


# --- who can use it -----------------------------------------------------------------


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


# --- what it tells ------------------------------------------------------------------


def test_page_shows_every_operation_and_problem(document: Json, page: Page) -> None:
    """Each operation is a place on the page, aliases in words; so is each code."""
    places = set(page.values("id"))
    for path, item in document["paths"].items():
        assert f"<code>{path}</code>" in page.text
        for each in item.values():
            assert each.get("x-alias-of", each["operationId"]) in places
    assert set(document["components"]["examples"]) <= places


def test_page_shows_every_field(document: Json, page: Page) -> None:
    """Parameters, headers and members of answers are all named."""
    view = View(document, "host")
    fields = [*view.shared_parameters(), *view.shared_headers()]
    for operation in view.operations():
        answer = operation.answer
        fields += [*operation.parameters, *answer.headers, *answer.members]
    names = {each.name for each in flatten(fields)}
    assert {"limit", "X-Request-ID", "Retry-After", "Usage-Plan", "steps"} <= names
    assert not [name for name in names if f"<code>{name}</code>" not in page.text]


def test_operation_reads_as_people_need_it(document: Json) -> None:
    """An operation tells its aliases, bounds, media types, problems and commands."""
    view = View(document, "host")
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


def test_answer_shows_its_members_inside_one_another(document: Json) -> None:
    """An array's objects are spelled out, and what may be missing is called so."""
    view = View(document, "host")
    operation = next(each for each in view.operations() if each.id == "read_usage")
    (items,) = operation.answer.members
    assert (items.name, items.kind) == ("usage", "array of object")
    assert items.description.startswith("The usage of one message;")
    assert [(each.name, each.presence) for each in items.members] == [
        ("message_id", ""),
        ("timestamp", ""),
        ("report_name", "optional"),
        ("credits_used", ""),
    ]


def test_sending_reads_as_people_need_it(document: Json) -> None:
    """What is taken, its members, the status, and a command that does something."""
    view = View(document, "host")
    sending = next(each for each in view.operations() if each.id == "send_events")
    assert sending.needs_key
    assert sending.body is not None
    assert sending.body.media_types == ["application/json", "application/x-ndjson"]
    members = {each.name: each for each in sending.body.members}
    required = {"session_id", "category", "name", "data", "timestamp"}
    assert required < members.keys()
    assert {each for each in members if members[each].presence == ""} == required
    assert ("413", "too_many_events") in sending.problems
    (command,) = sending.commands
    assert command.startswith("curl -H 'Authorization: Bearer <key>' 'host/events' ")
    assert "--json '{" in command


def test_path_variable_is_no_pattern_of_curl(document: Json) -> None:
    """Commands keep braces out, which curl would expand."""
    view = View(document, "host")
    operation = next(each for each in view.operations() if each.id == "explain_message")
    assert operation.commands == ["curl 'host/usage/<message_id>'"]
    assert operation.parameters[0].kind == "string, in the path"
    assert operation.parameters[0].presence == "required"


def test_commands_have_what_is_required(document: Json) -> None:
    """No command is shown that would only be refused."""
    view = View(document, "host")
    operation = next(each for each in view.operations() if each.id == "remove_vehicle")
    assert operation.commands == [
        "curl -X DELETE 'host/vehicles/remove?vin=1XPWD40X1ED215307'"
    ]


async def test_commands_call_the_host_that_was_asked(client: MakeClient) -> None:
    """A reader can paste them; what a request claims its host is can't be markup."""
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
