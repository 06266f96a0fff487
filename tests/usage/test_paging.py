"""Pages of `GET /usage` while the period changes between them.

A page continues after the last message of the page before, however messages are added
or removed elsewhere. Where that is not possible the answer is 410, and says why.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import ClientResponse
from yarl import URL

from service.sandbox.server import RunningSandbox
from tests.conftest import Client, MakeClient, report

CREDITS = "credits_used:desc"
MAX_PAGES = 50


def at(message_id: int, minute: int, text: str = "Rent?", **more: object) -> Any:
    """Return a message of upstream, sent at a minute of May."""
    timestamp = f"2024-05-01T00:{minute:02}:00.000Z"
    return {"id": message_id, "text": text, "timestamp": timestamp, **more}


def next_link(response: ClientResponse) -> str:
    """Return the target of the link to the next page."""
    return str(URL(str(response.links["next"]["url"])).relative())


async def ids_of(response: ClientResponse) -> list[int]:
    """Return the ids on a page."""
    assert response.status == 200, await response.text()
    return [item["message_id"] for item in (await response.json())["usage"]]


async def follow(service: Client, link: str) -> list[int]:
    """Return the ids on all pages from a link on."""
    ids: list[int] = []
    for _ in range(MAX_PAGES):
        response = await service.get(link)
        ids += await ids_of(response)
        if "next" not in response.links:
            return ids
        link = next_link(response)
    raise AssertionError("the pages do not end")


@pytest.fixture
async def service(client: MakeClient, sandbox: RunningSandbox) -> Client:
    """Return a service that refreshes for each request, on five messages."""
    sandbox.sandbox.set_report(7, report(7, "Lease Report", 40))
    sandbox.sandbox.set_report(8, report(8, "Title Report", 60))
    set_messages(sandbox, PERIOD)
    return await client()


PERIOD = [
    at(1, 1),
    at(2, 2, report_id=7),
    at(3, 3),
    at(4, 4, report_id=8),
    at(5, 5),
]


def set_messages(sandbox: RunningSandbox, messages: Sequence[Any]) -> None:
    """Let upstream have these messages from now on."""
    sandbox.sandbox.set_messages(list(messages))


async def first_page(
    service: Client, query: str = "", limit: int = 2
) -> ClientResponse:
    """Return the first page of a query."""
    return await service.get(f"/usage?limit={limit}&{query}")


async def problem_of(response: ClientResponse, status: int, code: str) -> str:
    """Check the kind of a problem; return its detail."""
    problem = await response.json()
    assert (response.status, problem["code"]) == (status, code)
    return str(problem["detail"])


# --- changes elsewhere ----------------------------------------------------------------


@pytest.mark.parametrize(
    "changed, rest",
    [
        pytest.param([at(9, 0), *PERIOD], [3, 4, 5], id="added before"),
        pytest.param([*PERIOD, at(9, 9)], [3, 4, 5, 9], id="added after"),
        pytest.param([*PERIOD[:3], at(9, 3), *PERIOD[3:]], [3, 9, 4, 5], id="between"),
        pytest.param(PERIOD[1:], [3, 4, 5], id="removed before"),
        pytest.param([*PERIOD[:2], *PERIOD[3:]], [4, 5], id="removed after"),
    ],
)
async def test_changes_elsewhere_neither_skip_nor_repeat(
    service: Client, sandbox: RunningSandbox, changed: list[Any], rest: list[int]
) -> None:
    """The next page begins after the message at which the last page ended."""
    page = await first_page(service)
    assert await ids_of(page) == [1, 2]
    set_messages(sandbox, changed)
    assert await follow(service, next_link(page)) == rest


async def test_sorted_pages_continue_by_value(
    service: Client, sandbox: RunningSandbox
) -> None:
    """A message that is added in front of the cursor comes on no later page."""
    page = await first_page(service, f"sort={CREDITS}")
    assert await ids_of(page) == [4, 2]
    set_messages(sandbox, [at(8, 0, report_id=8), *PERIOD, at(9, 9)])
    assert await follow(service, next_link(page)) == [1, 3, 5, 9]


async def test_repeated_messages_are_counted(
    service: Client, sandbox: RunningSandbox
) -> None:
    """A list that has one message three times has it on three pages."""
    set_messages(sandbox, [at(1, 1), at(1, 1), at(1, 1), at(2, 2)])
    page = await first_page(service, limit=1)
    assert await ids_of(page) == [1]
    assert await follow(service, next_link(page)) == [1, 1, 2]


# --- where going on is not possible -------------------------------------------------


async def test_another_period_does_not_follow(
    service: Client, sandbox: RunningSandbox
) -> None:
    """June's messages may have May's ids: they do not follow May's first page."""
    page = await first_page(service)
    june = [
        {**each, "timestamp": each["timestamp"].replace("-05-", "-06-")}
        for each in PERIOD
    ]
    set_messages(sandbox, june)
    response = await service.get(next_link(page))
    assert "period" in await problem_of(response, 410, "cursor_expired")


async def test_the_last_message_is_gone(
    service: Client, sandbox: RunningSandbox
) -> None:
    """Its place is not known any more."""
    page = await first_page(service)
    set_messages(sandbox, [PERIOD[0], *PERIOD[2:]])
    response = await service.get(next_link(page))
    assert "gone" in await problem_of(response, 410, "cursor_expired")


@pytest.mark.parametrize(
    "sort, status",
    [
        pytest.param(CREDITS, 410, id="credits"),
        pytest.param("message_id:asc", 200, id="id"),
        pytest.param("", 200, id="upstream's order"),
    ],
)
async def test_a_new_price_moves_messages_past_the_cursor(
    service: Client, sandbox: RunningSandbox, sort: str, status: int
) -> None:
    """Only an order that depends on prices is broken by new prices."""
    page = await first_page(service, f"sort={sort}" if sort else "", limit=1)
    sandbox.sandbox.set_report(7, report(7, "Lease Report", 90))
    response = await service.get(next_link(page))
    if status == 200:
        assert await ids_of(response) == [2]
    else:
        assert "past" in await problem_of(response, 410, "cursor_expired")


async def test_a_corrected_text_moves_its_message_past_the_cursor(
    service: Client, sandbox: RunningSandbox
) -> None:
    """It would be on the first page and on a later one."""
    page = await first_page(service, f"sort={CREDITS}", limit=3)
    assert await ids_of(page) == [4, 2, 1]
    corrected = [at(1, 1, ""), *PERIOD[1:]]
    set_messages(sandbox, [*corrected[1:3], corrected[0], *corrected[3:]])
    await problem_of(await service.get(next_link(page)), 410, "cursor_expired")


# --- another query --------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"sort": "credits_used:asc"}, id="order"),
        pytest.param({"sort": "message_id:desc"}, id="column"),
        pytest.param({"plan": "token-estimate"}, id="plan"),
        pytest.param({"from": "2024-05-01"}, id="from"),
        pytest.param({"to": "2024-05-01T00:04:00Z"}, id="to"),
    ],
)
async def test_a_cursor_is_of_one_query(
    service: Client, change: dict[str, str]
) -> None:
    """Under another plan, order or filter it gets 400, which names the parameter."""
    link = URL(next_link(await first_page(service, f"sort={CREDITS}")))
    response = await service.get(link.update_query(change))
    assert "cursor" in await problem_of(response, 400, "invalid_parameter")


async def test_the_size_and_the_format_may_change(service: Client) -> None:
    """They do not change which messages follow, nor does the name of the same plan."""
    link = URL(next_link(await first_page(service)))
    response = await service.get(link.update_query(limit="1", plan="text-rules"))
    assert await ids_of(response) == [3]
    response = await service.get(link, headers={"Accept": "application/x-ndjson"})
    assert len((await response.text()).splitlines()) == 2


async def test_a_service_that_has_just_started_continues_pages(
    service: Client, client: MakeClient, sandbox: RunningSandbox
) -> None:
    """Another worker has no history of prices; the same messages are enough."""
    page = await first_page(service, f"sort={CREDITS}")
    set_messages(sandbox, [*PERIOD, at(9, 9, report_id=8)])
    other = await client()
    assert await follow(other, next_link(page)) == [1, 3, 5]


# --- time to the nanosecond -----------------------------------------------------------


async def test_times_are_compared_exactly(
    service: Client, sandbox: RunningSandbox
) -> None:
    """Nanoseconds count in the order and in `from` and `to`."""
    times = ("000000900z", "000000100Z", "0000005Z", "000000100000000001Z")
    set_messages(
        sandbox,
        [
            {**at(number, 0), "timestamp": f"2024-05-01T00:00:00.{time}"}
            for number, time in enumerate(times)
        ],
    )
    assert await ids_of(await service.get("/usage?sort=timestamp")) == [1, 3, 2, 0]
    assert await ids_of(await service.get("/usage?sort=timestamp:desc")) == [0, 2, 3, 1]
    bound = "2024-05-01T00:00:00.000000100000000001Z"
    assert await ids_of(await service.get("/usage", params={"to": bound})) == [1]
    assert await ids_of(await service.get("/usage", params={"from": bound})) == [
        0,
        2,
        3,
    ]
    page = await first_page(service, "sort=timestamp", limit=1)
    assert await follow(service, next_link(page)) == [3, 2, 0]
