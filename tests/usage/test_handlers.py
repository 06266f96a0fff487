"""The endpoints of usage over a socket: bodies, parameters, and problems."""

import asyncio
import re
from typing import Any

import pytest
from aiohttp import ClientResponse
from yarl import URL

from service.sandbox.server import RunningSandbox
from tests.conftest import Client, MakeClient, message, report
from tests.patience import GIVE_UP_S

# A period made by hand: (id, text, timestamp, report id or none), and what it costs.
RESTRICTIONS = "Are there any restrictions on alterations or improvements?"
USAGE = (
    b'{"usage":['
    b'{"message_id":1000,"timestamp":"2024-04-29T02:08:29.375Z",'
    b'"report_name":"Tenant Obligations Report","credits_used":79.0},'
    b'{"message_id":1001,"timestamp":"2024-04-29T03:25:03.613Z","credits_used":5.2},'
    b'{"message_id":1002,"timestamp":"2024-05-01T23:30:00+00:00","credits_used":1.85},'
    b'{"message_id":1000,"timestamp":"2024-05-02T00:00:00.000Z",'
    b'"report_name":"Pr\xc3\xbcfung, \\"kurz\\"","credits_used":0.5},'
    b'{"message_id":-5,"timestamp":"2024-05-02T00:00:00.001Z","credits_used":2.0}'
    b"]}"
)
NDJSON = USAGE[len(b'{"usage":[') : -len(b"]}")].replace(b"},", b"}\n") + b"\n"
CSV = (
    b"message_id,timestamp,report_name,credits_used\r\n"
    b"1000,2024-04-29T02:08:29.375Z,Tenant Obligations Report,79.0\r\n"
    b"1001,2024-04-29T03:25:03.613Z,,5.2\r\n"
    b"1002,2024-05-01T23:30:00+00:00,,1.85\r\n"
    b'1000,2024-05-02T00:00:00.000Z,"Pr\xc3\xbcfung, ""kurz""",0.5\r\n'
    b"-5,2024-05-02T00:00:00.001Z,,2.0\r\n"
)


@pytest.fixture
async def service(client: MakeClient, sandbox: RunningSandbox) -> Client:
    """Return the application with the period above."""
    sandbox.sandbox.set_report(7, report(7, "Tenant Obligations Report", 79))
    sandbox.sandbox.set_report("x/8", report("x/8", 'Prüfung, "kurz"', 0.5))
    times = [
        "2024-04-29T02:08:29.375Z",
        "2024-04-29T03:25:03.613Z",
        "2024-05-01T23:30:00+00:00",
        "2024-05-02T00:00:00.000Z",
        "2024-05-02T00:00:00.001Z",
    ]
    messages = [
        message(1000, "ignored", report_id=7),
        message(1001, RESTRICTIONS),
        message(1002, "rent rent", report_id=404, mood="an extra field"),
        message(1000, "ignored", report_id="x/8"),
        message(-5, "a", report_id=None),
    ]
    sandbox.sandbox.set_messages(
        [
            {**each, "timestamp": time}
            for each, time in zip(messages, times, strict=True)
        ]
    )
    return await client()


async def problem_at(service: Client, path: str, **headers: str) -> dict[str, Any]:
    """Return the problem at a path, after checking its status."""
    response = await service.get(path, headers=headers)
    problem: dict[str, Any] = await response.json(
        content_type="application/problem+json"
    )
    assert response.status == problem["status"]
    return problem


def next_of(response: ClientResponse) -> str | None:
    """Return the path of the next page, if there is one."""
    if "next" not in response.links:
        return None
    return str(URL(response.links["next"]["url"]).relative())


# --- the contract -------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/usage", "/v1/usage"])
async def test_the_contract_to_the_byte(service: Client, path: str) -> None:
    """The published shape, whole: order, duplicates, verbatim times, absent names."""
    response = await service.get(path)

    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Usage-Plan"] == "text-rules/1"
    assert response.headers["Vary"] == "Accept, Accept-Encoding"
    assert "Link" not in response.headers
    assert await response.read() == USAGE


async def test_an_empty_period(client: MakeClient) -> None:
    """A period without messages is an empty list everywhere."""
    service = await client()
    answers = [
        await (await service.get(path)).read()
        for path in ("/usage", "/usage/daily", "/usage/reports")
    ]

    assert answers == [
        b'{"usage":[]}',
        b'{"days":[]}',
        b'{"reports":[],"text":{"messages":0,"credits_used":0.0}}',
    ]


@pytest.mark.parametrize(
    "path",
    ["/", "/usage", "/usage?limit=2", "/usage/1001", "/usage/daily", "/usage/plans"],
)
async def test_head_answers_as_get_without_a_body(service: Client, path: str) -> None:
    """HEAD has the headers of GET."""
    await service.get(path)
    head, get = await service.head(path), await service.get(path)

    ignored = {"Date", "X-Request-ID"}
    assert head.status == get.status
    assert {**head.headers, **dict.fromkeys(ignored)} == {
        **get.headers,
        **dict.fromkeys(ignored),
    }
    assert await head.read() == b""


@pytest.mark.parametrize(
    "accept, content_type, body",
    [
        ("application/json", "application/json", USAGE),
        ("application/x-ndjson", "application/x-ndjson; charset=utf-8", NDJSON),
        ("text/csv", "text/csv; charset=utf-8", CSV),
        ("text/html, text/csv;q=0.5", "text/csv; charset=utf-8", CSV),
    ],
    ids=["JSON", "NDJSON", "CSV", "CSV at last"],
)
async def test_formats_by_accept(
    service: Client, accept: str, content_type: str, body: bytes
) -> None:
    """The same items are sent in the type that the client prefers."""
    response = await service.get("/usage", headers={"Accept": accept})

    assert response.headers["Content-Type"] == content_type
    assert response.headers["Usage-Plan"] == "text-rules/1"
    assert await response.read() == body


@pytest.mark.parametrize(
    "accept, body",
    [
        ("application/x-ndjson", NDJSON.splitlines(keepends=True)[-1]),
        ("text/csv", b"".join(CSV.splitlines(keepends=True)[::5])),
    ],
    ids=["NDJSON", "CSV"],
)
async def test_a_selection_in_each_format(
    service: Client, accept: str, body: bytes
) -> None:
    """Filters, order and pages hold whatever the type."""
    path = "/usage?sort=timestamp:desc&limit=1"
    response = await service.get(path, headers={"Accept": accept})

    assert await response.read() == body
    assert 'rel="next"' in response.headers["Link"]


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0"])
async def test_another_type_is_not_acceptable(
    service: Client, sandbox: RunningSandbox, accept: str
) -> None:
    """406 lists the types, without a call of the upstream."""
    accept += ", text/*;q=0, application/x-ndjson;q=0"
    problem = await problem_at(service, "/usage", Accept=accept)

    assert problem["code"] == "not_acceptable"
    assert problem["detail"] == (
        "offered: application/json, application/x-ndjson, text/csv"
    )
    assert not sandbox.sandbox.calls


# --- queries ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query, ids",
    [
        ("from=2024-05-01", [1002, 1000, -5]),
        ("to=2024-05-02", [1000, 1001, 1002]),
        ("from=2024-04-29T03:25:03.613Z&to=2024-05-02T00:00:00Z", [1001, 1002]),
        ("from=2024-05-02T02:00:00%2B02:00", [1000, -5]),
        ("sort=credits_used:desc", [1000, 1001, -5, 1002, 1000]),
        ("sort=report_name:desc;credits_used:asc", [1000, 1000, 1002, -5, 1001]),
        ("sort=timestamp:desc&limit=2", [-5, 1000]),
    ],
)
async def test_selections(service: Client, query: str, ids: list[int]) -> None:
    """Times are half-open, sorting is stable, and nothing else is lost."""
    response = await service.get(f"/usage?{query}")

    assert response.status == 200
    assert [item["message_id"] for item in (await response.json())["usage"]] == ids


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize(
    "query",
    ["", "&sort=credits_used:desc;report_name:asc", "&from=2024-04-29T03:00:00Z"],
    ids=["all", "sorted", "filtered"],
)
@pytest.mark.parametrize("path", ["/usage", "/v1/usage"])
async def test_links_lead_to_the_end(
    service: Client, path: str, query: str, limit: int
) -> None:
    """Page after page, each message of the whole answer comes once and in order."""
    whole = (await (await service.get(f"{path}?{query[1:]}")).json())["usage"]
    pages: list[list[object]] = []
    link: str | None = f"{path}?limit={limit}{query}"
    while link is not None and len(pages) <= len(whole):
        response = await service.get(link)
        pages.append((await response.json())["usage"])
        link = next_of(response)

    assert [item for page in pages for item in page] == whole
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert link is None


async def test_a_link_keeps_the_parameters(service: Client) -> None:
    """The next page has the same plan, filter, order and size."""
    parameters = {
        "plan": "token-estimate",
        "from": "2024-04-29",
        "sort": "timestamp:desc",
        "limit": "1",
    }
    response = await service.get("/usage", params=parameters)

    found = re.fullmatch(r'<(/usage\?\S+)>; rel="next"', response.headers["Link"])
    assert found is not None
    followed = dict(URL(found[1]).query)
    assert followed.pop("cursor")
    assert followed == parameters


async def test_a_cursor_whose_message_is_gone(
    service: Client, sandbox: RunningSandbox
) -> None:
    """The cursor has expired: 410, instead of repeated or missing messages."""
    response = await service.get("/usage?limit=2")
    link = next_of(response)
    assert link is not None
    sandbox.sandbox.set_messages([message(each) for each in (1000, 1002, 1003)])

    assert (await problem_at(service, link))["code"] == "cursor_expired"


@pytest.mark.parametrize(
    "plan, header, credits_used",
    [
        ("text-rules", "text-rules/1", 5.2),
        ("text-rules/1", "text-rules/1", 5.2),
        ("token-estimate", "token-estimate/1", 6.0),
        ("token-estimate/1", "token-estimate/1", 6.0),
    ],
)
@pytest.mark.parametrize("path", ["/usage", "/v1/usage"])
async def test_another_plan(
    service: Client, path: str, plan: str, header: str, credits_used: float
) -> None:
    """The requested plan prices the texts, and is named with its version."""
    response = await service.get(path, params={"plan": plan})
    usage = (await response.json())["usage"]

    assert response.headers["Usage-Plan"] == header
    assert usage[1]["credits_used"] == credits_used
    assert usage[0]["credits_used"] == 79.0


@pytest.mark.parametrize(
    "configured, other",
    [
        ("text-rules/1", "token-estimate/1"),
        ("token-estimate/1", "text-rules/1"),
    ],
)
async def test_plans_are_listed(
    client: MakeClient, sandbox: RunningSandbox, configured: str, other: str
) -> None:
    """The configured default comes first; the upstream is not called."""
    name, _, _ = configured.partition("/")
    response = await (await client(usage={"plan": name})).get("/usage/plans")

    assert response.status == 200
    plans = (await response.json())["plans"]
    assert [(each["plan"], each["is_default"]) for each in plans] == [
        (configured, True),
        (other, False),
    ]
    steps = {each["plan"]: each["steps"] for each in plans}
    assert steps["text-rules/1"][:2] == [
        {"step": "base"},
        {"step": "characters", "rate": 0.05, "unit": "character"},
    ]
    assert steps["token-estimate/1"] == [
        {"step": "tokens", "rate": 0.4, "unit": "token"},
        {"step": "minimum"},
    ]
    assert not sandbox.sandbox.calls


# --- one message, and the sums ------------------------------------------------------


async def test_a_text_price_is_explained(service: Client) -> None:
    """Every step of the plan, in its order, with what it added."""
    response = await service.get("/usage/1002")

    assert response.headers["Usage-Plan"] == "text-rules/1"
    assert await response.read() == (
        b'{"message_id":1002,"timestamp":"2024-05-01T23:30:00+00:00",'
        b'"credits_used":1.85,"source":"text","plan":"text-rules/1","steps":['
        b'{"step":"base","credits":1.0,"total":1.0},'
        b'{"step":"characters","credits":0.45,"total":1.45},'
        b'{"step":"words","credits":0.4,"total":1.85},'
        b'{"step":"third_vowels","credits":0.0,"total":1.85},'
        b'{"step":"length_penalty","credits":0.0,"total":1.85},'
        b'{"step":"unique_words","credits":0.0,"total":1.85},'
        b'{"step":"palindrome","credits":0.0,"total":1.85}]}'
    )


async def test_a_report_price_is_explained(service: Client) -> None:
    """One step, and the report's name; of two messages with one id the first."""
    response = await service.get("/usage/1000")

    assert await response.read() == (
        b'{"message_id":1000,"timestamp":"2024-04-29T02:08:29.375Z",'
        b'"report_name":"Tenant Obligations Report","credits_used":79.0,'
        b'"source":"report","plan":"text-rules/1",'
        b'"steps":[{"step":"report","credits":79.0,"total":79.0}]}'
    )


@pytest.mark.parametrize(
    "message_id", ["1", "0", "-1000", "9999999999999999999", "-9223372036854775808"]
)
async def test_an_unknown_message(service: Client, message_id: str) -> None:
    """404 names the id that the period does not have."""
    problem = await problem_at(service, f"/usage/{message_id}")

    assert problem["code"] == "message_not_found"
    assert problem["detail"] == f"the current period has no message {message_id}"


@pytest.mark.parametrize(
    "message_id",
    [
        *("x", "1001x", "1001.0", "1e3", "1_001", "+1001", "01001", "%201001"),
        *("1001%0A", "-0", "-", "0x3e9", "%D9%A1%D9%A0%D9%A0%D9%A1", "null", "%00"),
        *("%ff", "%zz", "a%2Fb", str(10**30), "9" * 5000),
    ],
    ids=lambda text: text[:20],
)
async def test_a_malformed_id_is_not_found(
    service: Client, sandbox: RunningSandbox, message_id: str
) -> None:
    """An id has one spelling; any other text is a 404 without a call."""
    status, _, body = await ask_raw(service, f"/usage/{message_id}".encode())

    assert status == 404
    assert b'"code":"message_not_found"' in body
    assert len(body) < 1000
    assert not sandbox.sandbox.calls


@pytest.mark.parametrize(
    "query, days",
    [
        (
            "",
            [
                ("2024-04-29", 2, 84.2),
                ("2024-04-30", 0, 0.0),
                ("2024-05-01", 1, 1.85),
                ("2024-05-02", 2, 2.5),
            ],
        ),
        (
            "?tz=America/Los_Angeles&plan=token-estimate",
            [
                ("2024-04-28", 2, 85.0),
                ("2024-04-29", 0, 0.0),
                ("2024-04-30", 0, 0.0),
                ("2024-05-01", 3, 2.7),
            ],
        ),
    ],
    ids=["UTC", "Los Angeles"],
)
async def test_daily(
    service: Client, query: str, days: list[tuple[str, int, float]]
) -> None:
    """Every day from the first to the last, as the zone's calendar has them."""
    response = await service.get(f"/usage/daily{query}")

    assert await response.json() == {
        "days": [
            {"date": date, "messages": messages, "credits_used": used}
            for date, messages, used in days
        ]
    }


async def test_by_report(service: Client) -> None:
    """Reports by what they used, and the texts beside them."""
    response = await service.get("/usage/reports")

    assert await response.json() == {
        "reports": [
            {
                "report_name": "Tenant Obligations Report",
                "messages": 1,
                "credits_used": 79.0,
            },
            {"report_name": 'Prüfung, "kurz"', "messages": 1, "credits_used": 0.5},
        ],
        "text": {"messages": 3, "credits_used": 9.05},
    }
    assert response.headers["Usage-Plan"] == "text-rules/1"


# --- refusals -----------------------------------------------------------------------

PLANS = "unknown plan 'flat-rate'; known: text-rules, token-estimate"
MOMENT = "expected an ISO 8601 date or time such as 2024-04-29T02:08:29Z"
SORT = (
    "sort: expected column:direction;… with columns message_id, timestamp, "
    "report_name, credits_used and asc or desc"
)
LIMIT = "limit: expected type integer, minimum 1, maximum 100000"
CURSOR = "cursor: expected a cursor from a Link header of this endpoint"
ZONE = "tz: expected an IANA time zone such as Europe/London"


@pytest.mark.parametrize(
    "path, detail",
    [
        ("/usage?plan=flat-rate", PLANS),
        ("/v1/usage?plan=flat-rate", PLANS),
        ("/usage/daily?plan=flat-rate", PLANS),
        ("/usage/reports?plan=flat-rate", PLANS),
        ("/usage/1000?plan=flat-rate", PLANS),
        ("/usage?from=yesterday", f"from: {MOMENT}"),
        ("/usage?to=1714348800000", f"to: {MOMENT}"),
        ("/usage?sort=price", SORT),
        ("/usage?limit=0", LIMIT),
        ("/usage?limit=100001", LIMIT),
        ("/usage?limit=" + "9" * 5000, LIMIT),
        ("/usage?cursor=nonsense", CURSOR),
        ("/usage/daily?tz=Atlantis", ZONE),
        ("/usage/daily?tz=" + "x" * 5000, ZONE),
        ("/usage?limit=1&limit=2", "limit: more than one value"),
        ("/usage?limit=", "limit: no value"),
        (
            "/usage?colour=red",
            (
                "colour: unknown parameter; "
                "known: plan, period, from, to, sort, limit, cursor"
            ),
        ),
        ("/usage/daily?limit=1", "limit: unknown parameter; known: plan, period, tz"),
        ("/usage/reports?tz=UTC", "tz: unknown parameter; known: plan, period"),
        ("/usage/1000?limit=1", "limit: unknown parameter; known: plan, period"),
        ("/usage/plans?plan=text-rules", "plan: unknown parameter; known: none"),
    ],
    ids=lambda value: value[:40],
)
async def test_a_bad_parameter_is_refused(
    service: Client, sandbox: RunningSandbox, path: str, detail: str
) -> None:
    """400 names the parameter and its values, without a call of the upstream."""
    problem = await problem_at(service, path)

    assert problem["status"] == 400
    assert problem["detail"] == detail
    assert problem["code"] == (
        "unknown_plan" if detail == PLANS else "invalid_parameter"
    )
    assert not sandbox.sandbox.calls


# --- hostility ----------------------------------------------------------------------


async def ask_raw(
    service: Client, target: bytes, *headers: bytes
) -> tuple[int, bytes, bytes]:
    """GET a target exactly as given: status, head and body of the answer."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: x", b"Connection: close"]
    writer.write(b"\r\n".join([*lines, *headers, b"", b""]))
    try:
        async with asyncio.timeout(GIVE_UP_S):
            answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, body


@pytest.mark.parametrize(
    "target, status",
    [
        (b"/" + b"x" * 8000, 404),
        (b"/%00", 404),
        (b"/%0d%0aX-Injected:%20yes", 404),
        (b"/usage/%2e%2e/%2e%2e/etc/passwd", 404),
        (b"/../../etc/passwd", 404),
        (b"/usage%2F1000", 404),
        (b"/usage/%ed%a0%80", 404),
        (b"/usage?plan=%00", 400),
        (b"/usage?plan=%0d%0aX-Injected:%20yes", 400),
        (b"/usage?" + b"&".join([b"a=1"] * 2000), 400),
        (b"/usage?%=%&%zz", 400),
        (b"/usage?sort=" + b"credits_used;" * 600 + b"x", 400),
        (b"http://elsewhere/usage?x=1", 400),
    ],
    ids=lambda value: value[:30].decode() if isinstance(value, bytes) else None,
)
async def test_a_hostile_request_is_a_problem_document(
    service: Client, target: bytes, status: int
) -> None:
    """Every path and query is refused with a short problem document."""
    answered, head, body = await ask_raw(service, target)

    assert answered == status
    assert b"content-type: application/problem+json" in head.lower()
    assert b"x-injected" not in head.lower()
    assert len(body) < 1000
