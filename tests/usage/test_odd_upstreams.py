"""Bodies of upstreams that are legal JSON and unusual: the bill stays right."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.typing import EventDict

from tests.conftest import Client, MakeClient, message

Json = dict[str, Any]
BOM = b"\xef\xbb\xbf"
HUGE_INTEGER = "1" * 4_301


class OddUpstream:
    """An upstream whose bodies are bytes of the test, and which counts its calls."""

    def __init__(self) -> None:
        self.messages = b'{"messages":[]}'
        self.reports: dict[str, bytes] = {}
        self.statuses: list[int] = []
        self.calls: list[str] = []

    def app(self) -> web.Application:
        """Return the application to serve."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        return app

    async def answer(self, request: web.Request) -> web.Response:
        """Answer with the next status, or with the body of the path."""
        self.calls.append(request.path)
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        body = self.reports.get(request.path, self.messages)
        return web.Response(body=body, content_type="application/json")


@pytest.fixture
async def upstream() -> OddUpstream:
    """Return the upstream."""
    return OddUpstream()


@pytest.fixture
async def service(client: MakeClient, upstream: OddUpstream) -> AsyncIterator[Client]:
    """Serve in front of it, with one retry."""
    async with TestServer(upstream.app()) as server:
        url = str(server.make_url("/")).rstrip("/")
        yield await client(upstream={"base_url": url, "attempts": 2})


def period(*items: str) -> bytes:
    """Return a body of messages, as JSON texts."""
    return f'{{"messages":[{",".join(items)}]}}'.encode()


def item(text: str = '"a"', **fields: str) -> str:
    """Return a message as JSON, with further fields as JSON texts."""
    known = {"id": "1", "text": text, "timestamp": '"2024-04-29T03:25:03.613Z"'}
    pairs = (f'"{name}":{value}' for name, value in (known | fields).items())
    return "{" + ",".join(pairs) + "}"


async def usage_of(service: Client) -> list[Json]:
    """Return the items of the bill."""
    answer = await service.get("/usage")
    assert answer.status == 200, await answer.text()
    items: list[Json] = (await answer.json())["usage"]
    return items


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(period(item('"\\ud83d"')), id="in a text"),
        pytest.param(period(item(mood='"\\udead"')), id="in an unknown field"),
        pytest.param(period(item(report_id='"\\ud83d"')), id="in a report id"),
        pytest.param(period(item(report_id="1e400")), id="number beyond a double"),
        pytest.param(period(item(report_id=HUGE_INTEGER)), id="4,301 digits"),
        pytest.param(period(item(report_id='["\\ud83d",1e400]')), id="in a list"),
        pytest.param(BOM + period(item()), id="byte order mark"),
        pytest.param(BOM + period(item('"\\ud83d"')), id="both"),
    ],
)
async def test_a_message_is_priced_by_its_text(
    service: Client, upstream: OddUpstream, body: bytes
) -> None:
    """One request of the upstream is enough, and the text has one character."""
    upstream.messages = body
    (priced,) = await usage_of(service)
    expected = 2.0 if b'"text":"a"' in body else 1.0
    assert priced["credits_used"] == expected
    assert "report_name" not in priced
    assert upstream.calls == ["/messages/current-period"]


async def test_a_surrogate_counts_as_one_character(
    service: Client, upstream: OddUpstream
) -> None:
    """101 characters have the penalty for long texts, 100 do not."""
    texts = ("\\ud83d" * 100, "\\ud83d" * 101)
    upstream.messages = period(*(item(f'"{text}"') for text in texts))
    short, long = await usage_of(service)
    # 1 + 0.05 for each character - 2 without words, and 5 for more than 100.
    assert (short["credits_used"], long["credits_used"]) == (4.0, 9.05)


async def test_unusable_ids_are_logged_as_valid_text(
    service: Client, upstream: OddUpstream, log_entries: list[EventDict]
) -> None:
    """The log is UTF-8, whatever the upstream sends."""
    upstream.messages = period(item(report_id='"\\ud83dé"'), item(report_id="1e400"))
    await usage_of(service)
    logged = [e["report_id"] for e in log_entries if e["event"] == "report.invalid_id"]
    assert logged == ['"\ufffdé"', "Infinity"]


async def test_a_surrogate_in_a_timestamp_breaks_the_contract(
    service: Client, upstream: OddUpstream
) -> None:
    """No answer can repeat it, so the messages are unavailable."""
    upstream.messages = period(item(timestamp='"2024-04-29\\ud83d03:25:03.613Z"'))
    answer = await service.get("/usage")
    problem = await answer.json()
    assert (answer.status, problem["code"]) == (503, "messages_unavailable")


@pytest.mark.parametrize("large_bytes", [1, 1_000_000], ids=["child", "inline"])
async def test_a_deeply_nested_id_is_unusable_in_any_process(
    client: MakeClient,
    upstream: OddUpstream,
    log_entries: list[EventDict],
    large_bytes: int,
) -> None:
    """The text prices the message; the id is logged, cut."""
    deep = "[" * 600 + "]" * 600
    upstream.messages = period(item(report_id=deep))
    async with TestServer(upstream.app()) as server:
        url = str(server.make_url("/")).rstrip("/")
        service = await client(
            upstream={"base_url": url}, usage={"own_process_bytes": large_bytes}
        )
        (priced,) = await usage_of(service)
    assert priced["credits_used"] == 2.0
    logged = [e["report_id"] for e in log_entries if e["event"] == "report.invalid_id"]
    assert logged == [deep[:100]]


async def test_a_report_may_hold_surrogates(
    service: Client, upstream: OddUpstream
) -> None:
    """Its price counts; the name in the answer is valid text."""
    upstream.messages = period(item(report_id="7"))
    name = '"a\\ud83d"'
    report = f'{{"id":7,"name":{name},"credit_cost":61,"x":1e400}}'
    upstream.reports["/reports/7"] = BOM + report.encode()
    (priced,) = await usage_of(service)
    assert (priced["report_name"], priced["credits_used"]) == ("a\ufffd", 61.0)


@pytest.mark.parametrize(
    "status, calls",
    [(500, 2), (502, 2), (507, 2), (520, 2), (599, 2), (501, 1), (505, 1), (404, 1)],
)
async def test_server_errors_are_retried(
    service: Client, upstream: OddUpstream, status: int, calls: int
) -> None:
    """All but 501 and 505, which a later try cannot change."""
    upstream.messages = json.dumps({"messages": [message(1)]}).encode()
    upstream.statuses = [status]
    answer = await service.get("/usage")
    assert len(upstream.calls) == calls
    assert answer.status == (200 if calls == 2 else 503)
