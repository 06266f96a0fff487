"""Events that pages of another origin send while they are closed."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
import pytest_asyncio
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page

from service.keys.handlers import DATABASE
from service.keys.store import add_key
from service.sandbox.server import RunningSandbox
from tests.browser.dashboard import IN_BROWSER
from tests.browser.serving import serving
from tests.keys.conftest import with_key
from tests.patience import GIVE_UP_S

pytestmark = IN_BROWSER

GUIDE: Final = Path(__file__).parents[2] / "docs" / "collect-events.md"
EVENTS: Final = 10
"""Requests of one page."""
LOOK_AGAIN_S: Final = 0.01

SEND: Final = """
async ([url, key, events, way]) => {
  const sendBlob = (body, type) =>
    navigator.sendBeacon(withKey, new Blob([body], type ? { type } : {}));
  const ways = {
    "fetch": (body) => send({ body }),
    "fetch of JSON": (body) => send({ body, headers: JSON_WITH_KEY }),
    "keepalive": (body) => send({ body, keepalive: true }),
    "keepalive of JSON": (body) =>
      send({ body, keepalive: true, headers: JSON_WITH_KEY }),
    "beacon of text": (body) => navigator.sendBeacon(withKey, body),
    "beacon of JSON": (body) => sendBlob(body, "application/json"),
    "beacon of a form": (body) => sendBlob(body, "application/x-www-form-urlencoded"),
    "beacon without a type": (body) => sendBlob(body),
  };
  const JSON_WITH_KEY = { "Content-Type": "application/json", "X-API-Key": key };
  const withKey = `${url}?key=${key}`;
  const send = (options) => {
    const target = options.headers ? url : withKey;
    const sent = fetch(target, { method: "POST", ...options });
    // A request that ends with its page is reported only when it is answered.
    return options.keepalive || sent.then((answer) => answer.status === 202);
  };
  const reported = await Promise.all(events.map((body) => ways[way](body)));
  return reported.map(Boolean);
}
"""
"""Sends each event in a request of its own, and returns which the browser has sent."""


class Site(NamedTuple):
    """A page's origin, the service, and keys to send and to read events."""

    origin: str
    service: str
    key: str
    reader: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(
    running: RunningSandbox, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """A site whose origin the service permits."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<title>A shop</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    file = tmp_path_factory.mktemp("events") / "events.db"
    async with TestServer(app) as pages:
        origin = str(pages.make_url("/"))[:-1]
        events = {"enabled": True, "cors_origins": (origin,)}
        storage = {"url": f"sqlite+aiosqlite:///{file}"}
        async with serving(running, events=events, storage=storage) as served:
            database = served.app[DATABASE]
            key = await add_key(database, "shop")
            reader = await add_key(database, "shop", ("events:read",))
            yield Site(origin, served.url, key, reader)


def event_of(number: int, session: str) -> dict[str, Any]:
    """Return an event of a session."""
    return {
        "id": f"{session}-{number}",
        "session_id": session,
        "category": "page interaction",
        "name": "leave",
        "data": {"number": number},
        "timestamp": "2021-01-01T09:15:27Z",
    }


async def stored(site: Site, session: str, expected: int) -> set[str]:
    """Return the ids of a session's events, once there are as many as expected."""
    async with (
        asyncio.timeout(GIVE_UP_S),
        ClientSession(site.service, headers=with_key(site.reader)) as client,
    ):
        while True:
            path = f"/events?session_id={session}&limit=1000"
            async with client.get(path) as answer:
                events = (await answer.json())["events"]
            if len(events) >= expected:
                return {each["id"] for each in events}
            await asyncio.sleep(LOOK_AGAIN_S)


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, site: Site) -> AsyncIterator[Page]:
    """A page of the site, in a browser with nothing remembered."""
    context = await browser.new_context()
    opened = await context.new_page()
    await opened.goto(site.origin)
    yield opened
    await context.close()


@pytest.mark.parametrize(
    "way",
    [
        *("fetch", "fetch of JSON", "keepalive", "keepalive of JSON"),
        *("beacon of text", "beacon of JSON"),
        *("beacon of a form", "beacon without a type"),
    ],
)
async def test_what_the_browser_has_sent_is_stored(
    way: str, site: Site, page: Page
) -> None:
    """Each event is stored, although the page is closed at once."""
    session = way.replace(" ", "-")
    events = [event_of(number, session) for number in range(EVENTS)]
    bodies = [msgspec.json.encode(each).decode() for each in events]
    url = f"{site.service}/events"
    reported = await page.evaluate(SEND, [url, site.key, bodies, way])
    await page.close()
    assert reported == [True] * EVENTS
    assert await stored(site, session, EVENTS) == {each["id"] for each in events}


async def test_an_event_of_a_page_that_is_left_is_stored(
    site: Site, page: Page
) -> None:
    """The page sends it from its own handler of the end, and may go to another one."""
    for number, way in enumerate(("beacon of text", "beacon of JSON", "keepalive")):
        body = msgspec.json.encode(event_of(number, "left")).decode()
        sent = [f"{site.service}/events", site.key, [body], way]
        argument = msgspec.json.encode(sent).decode()
        await page.evaluate(
            f"() => addEventListener('pagehide', () => ({SEND})({argument}))"
        )
        await page.goto(f"{site.origin}/?page={number}")
    assert len(await stored(site, "left", 3)) == 3


async def test_the_script_of_the_guide_loses_nothing(site: Site, page: Page) -> None:
    """It sends what was tracked just before the page is left."""
    (script,) = re.findall(r"```js\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert "http://127.0.0.1:8000/events?key=KEY" in script
    address = f"{site.service}/events?key={site.key}"
    script = script.replace("http://127.0.0.1:8000/events?key=KEY", address)
    await page.add_script_tag(content=script)
    number = 120
    session = await page.evaluate(
        """(number) => {
          for (let each = 0; each < number; each++) track("shop", "leave", { each });
          return session;
        }""",
        number,
    )
    await page.goto(f"{site.origin}/?next")
    assert len(await stored(site, session, number)) == number


async def test_a_script_can_read_a_refusal_of_its_own_site_only(
    site: Site, page: Page
) -> None:
    """It reads the code and the request id; a page that is not named reads nothing."""
    script = """async (url) => {
      try {
        const answer = await fetch(url, { method: "POST", body: "{" });
        return [answer.status, (await answer.json()).code,
          answer.headers.get("X-Request-ID").length];
      } catch (error) { return [String(error)]; }
    }"""
    url = f"{site.service}/events?key="
    assert await page.evaluate(script, url) == [401, "unauthorized", 32]
    assert await page.evaluate(script, url + site.key) == [400, "not_json", 32]
    await page.goto(site.origin.replace("127.0.0.1", "localhost"))
    refused = ["TypeError: Failed to fetch"]
    assert await page.evaluate(script, url + site.key) == refused
