"""An opened row: why its message costs what it costs, in words."""

import json
from typing import Any, Final

from playwright.async_api import Route, expect
from yarl import URL

from tests.browser.conftest import OpenPage
from tests.browser.dashboard import IN_BROWSER, MINUS

pytestmark = IN_BROWSER

CODE_NAMES: Final = ("third_vowels", "unique_words", "length_penalty", "text-rules")


def fulfilled(body: object) -> dict[str, Any]:
    """An answer of the service's that a test makes up."""
    return {"status": 200, "content_type": "application/json", "body": json.dumps(body)}


async def test_text_is_explained_step_by_step(open_page: OpenPage) -> None:
    """The row opens to its steps, with what each added and the total after it."""
    dashboard = await open_page()
    opener = dashboard.opener(1001)
    await expect(opener).to_have_attribute("aria-expanded", "false")
    await opener.click()
    await expect(opener).to_have_attribute("aria-expanded", "true")
    steps = dashboard.table.locator("table")
    await expect(steps).to_contain_text("5.20")
    for amount in ("+1.00", "+2.90", f"{MINUS}2.00"):
        await expect(steps.get_by_text(amount, exact=True)).to_be_visible()
    text = await dashboard.table.inner_text()
    assert not [name for name in CODE_NAMES if name in text]


async def test_report_is_named_with_its_price(open_page: OpenPage) -> None:
    """A message that asked for a report says which, and what that costs."""
    dashboard = await open_page()
    await dashboard.opener(1000).click()
    sentence = "asked for the Tenant Obligations Report, which costs 79.00 credits"
    await expect(dashboard.table.get_by_text(sentence)).to_be_visible()


async def test_row_opens_wherever_it_is_clicked(open_page: OpenPage) -> None:
    """A click on any cell opens the row, another one closes it."""
    dashboard = await open_page()
    credit_cell = dashboard.rows.nth(1).locator("td").last
    await credit_cell.click()
    await expect(dashboard.opener(1001)).to_have_attribute("aria-expanded", "true")
    await credit_cell.click()
    await expect(dashboard.opener(1001)).to_have_attribute("aria-expanded", "false")
    await expect(dashboard.table.locator("table")).to_have_count(0)


async def test_several_rows_stay_open_while_sorting(open_page: OpenPage) -> None:
    """An opened row stays open, with its own steps, wherever sorting puts it."""
    dashboard = await open_page()
    await dashboard.opener(1005).click()
    await dashboard.sorter("Credits Used").click()
    await dashboard.expect_ids(1005, 1004, 1001, 1002, 1000, 1003, 1006)
    await expect(dashboard.opener(1005)).to_have_attribute("aria-expanded", "true")
    below = dashboard.table.locator("tr:has(button[aria-expanded=true]) + tr")
    await expect(below.locator("table")).to_contain_text("1.00")


async def test_failure_is_told_and_can_be_repeated(open_page: OpenPage) -> None:
    """A row whose steps cannot be had says so alone, and can be asked again."""
    dashboard = await open_page()
    dashboard.watch.expect("status of 404")
    missing = fulfilled({"title": "The period has no such message"}) | {"status": 404}
    await dashboard.page.route("**/usage/1001*", lambda route: route.fulfill(**missing))
    await dashboard.opener(1001).click()
    await expect(dashboard.table).to_contain_text("no such message")
    await dashboard.page.unroute_all()
    await dashboard.table.get_by_role("button", name="Try again").click()
    await expect(dashboard.table.locator("table")).to_contain_text("5.20")
    await expect(dashboard.rows).to_have_count(7)


async def test_unreadable_explanation_is_told(open_page: OpenPage) -> None:
    """An answer that makes no sense is an error of that row alone."""
    dashboard = await open_page()
    answers = {
        1000: [],
        1001: {"source": "text", "credits_used": "5"},
        1002: {"source": "magic", "credits_used": 5.2, "steps": []},
    }

    async def answer_so(route: Route) -> None:
        message_id = int(URL(route.request.url).name)
        await route.fulfill(**fulfilled(answers[message_id]))

    await dashboard.page.route("**/usage/100*", answer_so)
    for count, message_id in enumerate(answers, 1):
        await dashboard.opener(message_id).click()
        told = dashboard.table.get_by_text("could not be read")
        await expect(told).to_have_count(count)
    await expect(dashboard.rows).to_have_count(7)


async def test_unknown_step_is_shown_in_words(open_page: OpenPage) -> None:
    """A step that a later plan brings is shown under its own name, made readable."""
    dashboard = await open_page()
    steps = [
        {"step": "weekend_discount", "credits": -1.5, "total": 3.7},
        {"step": "<b>bold</b>", "credits": 1.5, "total": 5.2},
    ]
    answer = {"source": "text", "credits_used": 5.2, "plan": "new/1", "steps": steps}

    async def answer_so(route: Route) -> None:
        await route.fulfill(**fulfilled(answer))

    await dashboard.page.route("**/usage/1001*", answer_so)
    await dashboard.opener(1001).click()
    table = dashboard.table.locator("table")
    await expect(table).to_contain_text("Weekend discount")
    await expect(table).to_contain_text("<b>bold</b>", ignore_case=True)
    await expect(table.locator("b")).to_have_count(0)


async def test_steps_are_asked_for_when_a_row_opens(
    open_page: OpenPage,
) -> None:
    """Nothing is asked about a row before it is opened."""
    dashboard = await open_page()
    assert dashboard.watch.asked("/usage/1001") == 0
    await dashboard.opener(1001).click()
    await expect(dashboard.table.locator("table")).to_be_visible()
    assert dashboard.watch.asked("/usage/1001") == 1
