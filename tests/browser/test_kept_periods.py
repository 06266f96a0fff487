"""The page before a service that keeps periods: no answer of it is a test's."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest_asyncio
from aiohttp import ClientSession
from playwright.async_api import expect

from service.keys.handlers import DATABASE
from service.keys.store import add_key
from service.sandbox.server import RunningSandbox
from tests.browser.axe import check
from tests.browser.conftest import NewPage, Serve
from tests.browser.dashboard import IN_BROWSER, MINUS
from tests.browser.serving import Served
from tests.browser.test_geometry import BROKEN_NUMBERS, CUT_OFF, SCREENS, WIDTHS
from tests.conftest import message
from tests.keys.conftest import with_key
from tests.patience import GIVE_UP_S

pytestmark = IN_BROWSER

Messages = Sequence[dict[str, object]]

TODAY: Final = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
BEGAN: Final = [TODAY - timedelta(days=ago) for ago in (84, 52, 20)]
DAYS: Final = 18
BUDGET: Final = {"credits": 6_000, "thresholds": [50, 80, 100]}


def period_of(begin: datetime, per_day: int) -> list[dict[str, object]]:
    """Return so many messages on each of the first days of a period."""
    return [
        message(
            begin.timetuple().tm_yday * 1_000 + day * 10 + each,
            f"Question {each} of day {day}?",
            timestamp=f"{begin + timedelta(days=day, hours=9 + each):%FT%TZ}",
            **({"report_id": 7 + (day + each) % 3} if each else {}),
        )
        for day in range(DAYS)
        for each in range(per_day)
    ]


class Keeping(NamedTuple):
    """A service with kept periods, and its upstream."""

    served: Served
    client: ClientSession

    async def keep(self, messages: Messages) -> None:
        """Let the service fetch these messages, and wait until it has kept them."""
        self.served.upstream.set_messages(messages)
        async with asyncio.timeout(GIVE_UP_S):
            while True:
                await self.get("/usage")
                periods = (await self.get("/usage/periods"))["periods"]
                if periods and periods[0]["messages"] == len(messages):
                    return

    async def get(self, path: str) -> dict[str, Any]:
        """Return an answer of the service."""
        async with self.client.get(self.served.url + path) as answer:
            assert answer.status == 200, await answer.text()
            body: dict[str, Any] = await answer.json()
            return body


@pytest_asyncio.fixture(loop_scope="session")
async def keeping(
    serve: Serve, upstream: RunningSandbox, tmp_path: Path
) -> AsyncIterator[Keeping]:
    """A service with two closed periods, an open one, a budget and a forecast."""
    served = await serve(
        storage={"url": f"sqlite+aiosqlite:///{tmp_path / 'kept.db'}"},
        periods={"enabled": True, "length": "P1M"},
        cache={"confirm_shrink_s": 0.0},
    )
    key = await add_key(served.app[DATABASE], "finance", ["usage:manage"])
    async with ClientSession() as client:
        service = Keeping(served, client)
        for begin, per_day in zip(BEGAN, (4, 7, 5), strict=True):
            await service.keep(period_of(begin, per_day))
        url = f"{served.url}/usage/budgets/Office"
        async with client.put(url, json=BUDGET, headers=with_key(key)) as answer:
            assert answer.ok, await answer.text()
        yield service


async def test_what_credits_are_measured_by(
    keeping: Keeping, new_page: NewPage
) -> None:
    """The page shows budget, forecast and period before, and on return the changes."""
    dashboard = await new_page(served=keeping.served)
    page, how_much = dashboard.page, dashboard.how_much
    await dashboard.open()
    forecast = await keeping.get("/usage/forecast")
    for text in (
        "Budget Office: 88% of 6,000.00 credits",
        f"{forecast['credits_used']:,.2f} credits",
        f"{forecast['expected']:,.2f} credits, 80% likely between",
        f"credits against the period before, {BEGAN[1]:%d-%m-%Y} to",
    ):
        await expect(how_much).to_contain_text(text)
    await expect(how_much).not_to_contain_text("last visit")

    await keeping.keep(period_of(BEGAN[-1], 5)[1:])
    await page.reload()
    await expect(how_much).to_contain_text(f"{MINUS}1.40 credits, 1 message removed")
    SCREENS.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 900})
        await page.screenshot(path=SCREENS / f"kept-{width}.png", full_page=True)
        assert await page.evaluate(CUT_OFF) == [], width
        assert await page.evaluate(BROKEN_NUMBERS) == [], width
    await check(dashboard)


async def test_closed_periods_are_chosen(keeping: Keeping, new_page: NewPage) -> None:
    """A closed period has its own figures, and nothing of the open one."""
    dashboard = await new_page(served=keeping.served)
    how_much = dashboard.how_much
    await dashboard.open()
    periods = (await keeping.get("/usage/periods"))["periods"]
    last, first = periods[1:]
    choice = dashboard.filters.get_by_label("Period", exact=True)
    await choice.select_option(last["period"])
    await dashboard.expect_query(f"?period={last['period']}")
    more = last["credits_used"] - first["credits_used"]
    await expect(how_much).to_contain_text(f"{last['credits_used']:,.2f} credits")
    await expect(how_much).to_contain_text(f"+{more:,.2f} credits against the period")
    for text in ("Budget", "Expected", "last visit"):
        await expect(how_much).not_to_contain_text(text)
    await dashboard.rows.first.get_by_role("button").click()
    await expect(dashboard.table.locator("table")).to_be_visible()
    await dashboard.page.screenshot(path=SCREENS / "kept-closed.png", full_page=True)
    await choice.select_option(first["period"])
    await expect(how_much).to_contain_text(f"{first['credits_used']:,.2f} credits")
    await expect(how_much).not_to_contain_text("against the period before")


async def test_period_without_messages_does_not_hide_the_others(
    keeping: Keeping, new_page: NewPage
) -> None:
    """While the current period is empty, closed ones can still be chosen."""
    keeping.served.upstream.set_messages([])
    dashboard = await new_page(served=keeping.served)
    await dashboard.open()
    await expect(dashboard.page.get_by_text("No messages yet")).to_be_visible()
    closed = f"{BEGAN[1]:%d-%m-%Y}"
    choice = dashboard.filters.get_by_label("Period", exact=True)
    period = (await keeping.get("/usage/periods"))["periods"][1]["period"]
    await choice.select_option(period)
    await expect(dashboard.how_much).to_contain_text(closed)
    await expect(dashboard.rows.first).to_be_visible()
