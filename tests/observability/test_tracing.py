"""Traces: spans, their parents, and the trace context sent to the upstream.

The real application runs with OpenTelemetry's SDK; its spans are exported to
memory, and a small upstream records the received headers.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from unittest.mock import Mock

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from pytest_aiohttp.plugin import AiohttpServer
from structlog.typing import EventDict
from yarl import URL

from service.app import create_app
from service.observability import span_export
from service.observability import tracing as telemetry
from service.server.runner import listening
from service.settings import SettingsError, load
from service.settings.types import is_installed
from service.usage.cache import SnapshotCache
from service.web.client_stream import ClientDisconnected
from tests.conftest import Client, MakeClient, MakeSettings, message, report
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import said_without

TRACE_ID: Final = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID: Final = "b7ad6b7169203331"
CALLER: Final = {
    "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01",
    "tracestate": "vendor=some",
}
ON: Final = {"traces": True}
SAMPLED: Final = 1
MESSAGES: Final = "GET /messages/current-period"
REPORT: Final = "GET /reports/{id}"

Ended = Callable[[Client], Awaitable[list[ReadableSpan]]]


class Upstream:
    """An upstream of two messages; remembers each call's path and trace context."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str | None, str | None]] = []
        self.failures = 0

    async def answer(self, request: web.Request) -> web.Response:
        headers = request.headers
        context = headers.get("traceparent"), headers.get("tracestate")
        self.calls.append((request.path, *context))
        if self.failures:
            self.failures -= 1
            raise web.HTTPServiceUnavailable
        if request.path.startswith("/reports/"):
            return web.json_response(report(7, "Short Lease Report", 61))
        messages = [message(1), message(2, report_id=7)]
        return web.json_response({"messages": messages})


@pytest.fixture
def upstream() -> Upstream:
    """The upstream of the service."""
    return Upstream()


@pytest.fixture
async def server(upstream: Upstream, aiohttp_server: AiohttpServer) -> TestServer:
    """It, on a port."""
    app = web.Application()
    app.router.add_get("/{path:.*}", upstream.answer)
    return await aiohttp_server(app)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Stores the spans for a collector."""
    exported = InMemorySpanExporter()
    monkeypatch.setattr(span_export, "exporter_to", lambda _endpoint: exported)
    return exported


@pytest.fixture
def ended(exporter: InMemorySpanExporter) -> Ended:
    """Close a service and have all its spans, in the order of their beginnings."""

    async def close(service: Client) -> list[ReadableSpan]:
        await service.close()
        return sorted(
            exporter.get_finished_spans(), key=lambda each: each.start_time or 0
        )

    return close


@pytest.fixture
def traced(client: MakeClient, server: TestServer) -> MakeClient:
    """A factory of clients of the service on that upstream."""

    async def make(**sections: dict[str, Any]) -> Client:
        defaults = {"base_url": str(server.make_url("/"))}
        upstream = defaults | sections.pop("upstream", {})
        return await client(**{"telemetry": ON, **sections, "upstream": upstream})

    return make


def id_of(span: ReadableSpan) -> str:
    """The id of a span as it is written."""
    context = span.get_span_context()
    assert context is not None
    return format_span_id(context.span_id)


def trace_of(span: ReadableSpan) -> str:
    """The id of its trace."""
    context = span.get_span_context()
    assert context is not None
    return format_trace_id(context.trace_id)


def parent_of(span: ReadableSpan) -> str | None:
    """The id of its parent."""
    return format_span_id(span.parent.span_id) if span.parent else None


# --- on -----------------------------------------------------------------------------


async def test_a_request_is_a_tree_of_spans(traced: MakeClient, ended: Ended) -> None:
    """The request, under it the refresh, under that each try to call upstream."""
    service = await traced()
    assert (await service.get("/usage")).status == 200

    request, refresh, messages, one_report = await ended(service)
    spans = (request, refresh, messages, one_report)
    names = ["GET /usage", "usage.refresh", MESSAGES, REPORT]
    assert [each.name for each in spans] == names
    parents = [None, id_of(request), id_of(refresh), id_of(refresh)]
    assert [parent_of(each) for each in spans] == parents
    kinds = [SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT, SpanKind.CLIENT]
    assert [each.kind for each in spans] == kinds
    assert len({trace_of(each) for each in spans}) == 1
    assert {each.status.status_code for each in spans} == {StatusCode.UNSET}


async def test_a_caller_is_the_parent_and_upstream_the_child(
    traced: MakeClient, ended: Ended, upstream: Upstream
) -> None:
    """`traceparent` comes in as the parent, and goes out with the try's own span."""
    service = await traced()
    await service.get("/usage", headers=CALLER)

    request, _, messages, one_report = await ended(service)
    assert (trace_of(request), parent_of(request)) == (TRACE_ID, PARENT_ID)
    assert upstream.calls == [
        (
            "/messages/current-period",
            f"00-{TRACE_ID}-{id_of(messages)}-01",
            "vendor=some",
        ),
        ("/reports/7", f"00-{TRACE_ID}-{id_of(one_report)}-01", "vendor=some"),
    ]


async def test_each_try_is_a_span_of_its_own(
    traced: MakeClient, ended: Ended, upstream: Upstream
) -> None:
    """A failed try is a failed span; the next one says which try it is."""
    upstream.failures = 1
    service = await traced()
    assert (await service.get("/usage")).status == 200

    _, _, first, second, _ = await ended(service)
    assert first.attributes is not None
    assert second.attributes is not None
    assert first.status.status_code is StatusCode.ERROR
    assert first.attributes["http.response.status_code"] == 503
    assert first.attributes["error.type"] == "503"
    assert "http.request.resend_count" not in first.attributes
    assert second.status.status_code is StatusCode.UNSET
    assert second.attributes["http.request.resend_count"] == 1
    sent = [str(traceparent)[:-3] for _, traceparent, _ in upstream.calls[:2]]
    assert sent == [f"00-{trace_of(each)}-{id_of(each)}" for each in (first, second)]


async def test_attributes_of_a_try(
    traced: MakeClient, ended: Ended, server: TestServer
) -> None:
    """A client's span has OpenTelemetry's attributes, and no password."""
    secret = str(server.make_url("/").with_user("some").with_password("secret"))
    service = await traced(upstream={"base_url": secret})
    await service.get("/usage")

    *_, last = await ended(service)
    assert dict(last.attributes or {}) == {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "url.full": str(server.make_url("/reports/7")),
        "url.template": "/reports/{id}",
        "http.response.status_code": 200,
    }


async def test_an_unreachable_upstream_is_a_failed_span(
    traced: MakeClient, ended: Ended
) -> None:
    """Every span on the way has failed, each by its own error."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    service = await traced(upstream={"base_url": nowhere, "attempts": 1})
    assert (await service.get("/usage")).status == 503

    spans = await ended(service)
    assert [(each.attributes or {})["error.type"] for each in spans] == [
        "503",
        "MessagesUnavailable",
        "ConnectFailed",
    ]
    assert {each.status.status_code for each in spans} == {StatusCode.ERROR}


@pytest.mark.parametrize(
    "request_line, name, expected_attributes",
    [
        (
            "GET /usage/1?plan=text-rules",
            "GET /usage/{message_id}",
            {
                "http.route": "/usage/{message_id}",
                "url.query": "plan=text-rules",
                "http.response.status_code": 200,
            },
        ),
        (
            "POST /events?%6Bey=secret&limit=cu_one",
            "POST",
            {
                "url.query": "key=REDACTED&limit=REDACTED",
                "http.response.status_code": 404,
            },
        ),
        (
            "GET /events/cu_one",
            "GET",
            {"url.path": "/events/REDACTED", "http.response.status_code": 404},
        ),
        (
            "GET /events/%63u_one",
            "GET",
            {"url.path": "/events/REDACTED", "http.response.status_code": 404},
        ),
        ("GET /nowhere", "GET", {"http.response.status_code": 404}),
        (
            "PROPFIND /usage",
            "_OTHER",
            {
                "http.request.method": "_OTHER",
                "http.request.method_original": "PROPFIND",
                "http.response.status_code": 405,
            },
        ),
    ],
    ids=[
        "route",
        "key in query",
        "key in path",
        "encoded key",
        "no route",
        "no method",
    ],
)
async def test_attributes_of_a_request(
    traced: MakeClient,
    ended: Ended,
    request_line: str,
    name: str,
    expected_attributes: dict[str, object],
) -> None:
    """OpenTelemetry's attributes of servers; a caller's mistake is no error."""
    method, path = request_line.split()
    service = await traced()
    url = URL(f"http://{service.host}:{service.port}{path}", encoded=True)
    await service.session.request(method, url, headers={"User-Agent": "some"})

    request = (await ended(service))[0]
    expected = {
        "http.request.method": method,
        "url.scheme": "http",
        "url.path": path.partition("?")[0],
        "network.protocol.version": "1.1",
        "user_agent.original": "some",
        **expected_attributes,
    }
    assert request.name == name
    assert dict(request.attributes or {}) == expected
    assert request.status.status_code is StatusCode.UNSET
    assert request.resource.attributes["service.name"] == "copilot-usage"
    assert request.resource.attributes["service.version"] == "0.1.0"


async def test_a_client_that_disconnects_is_no_failure(
    traced: MakeClient, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its span has the status of the log, and is no error."""
    monkeypatch.setattr(SnapshotCache, "view", Mock(side_effect=ClientDisconnected))
    service = await traced()
    # The server of this client answers it; that of the service closes the connection.
    await service.get("/usage/daily")

    request = (await ended(service))[0]
    assert (request.attributes or {})["http.response.status_code"] == 499
    assert request.status.status_code is StatusCode.UNSET


async def test_log_lines_name_the_active_span(
    traced: MakeClient, ended: Ended, log_entries: list[EventDict]
) -> None:
    """A line leads to the span that it was written in, and not to the caller's."""
    service = await traced()
    await service.get("/usage", headers=CALLER)

    request, refresh, messages, _ = await ended(service)
    written_in = {
        "usage.refresh.started": refresh,
        "upstream.request": messages,
        "report.resolved": refresh,
        "usage.refresh.finished": refresh,
        "http.request": request,
    }
    entries = {entry["event"]: entry for entry in reversed(log_entries)}
    for event, span in written_in.items():
        assert entries[event]["trace_id"] == TRACE_ID
        assert entries[event]["span_id"] == id_of(span)


async def test_requests_at_once_keep_their_spans(
    traced: MakeClient, ended: Ended, log_entries: list[EventDict]
) -> None:
    """Each has its own trace; the one refresh hangs on the one that began it."""
    service = await traced(cache={"ttl_s": 60.0})
    await asyncio.gather(*(service.get("/usage") for _ in range(5)))

    spans = await ended(service)
    requests = [each for each in spans if each.kind is SpanKind.SERVER]
    refreshes = [each for each in spans if each.name == "usage.refresh"]
    lines = [each for each in log_entries if each["event"] == "http.request"]
    assert len({trace_of(each) for each in requests}) == 5
    assert len(refreshes) == 1
    assert parent_of(refreshes[0]) in {id_of(each) for each in requests}
    assert {each["span_id"] for each in lines} == {id_of(each) for each in requests}


async def test_cached_answers_have_spans(
    settings: MakeSettings, server: TestServer, exporter: InMemorySpanExporter
) -> None:
    """The fast path creates no spans, so it is not used."""
    ours = settings(
        server={"port": 0},
        telemetry=ON,
        cache={"ttl_s": 60.0},
        upstream={"base_url": str(server.make_url("/"))},
    )
    async with listening(create_app(ours), ours.server) as url, ClientSession() as http:
        for _ in range(3):
            async with http.get(f"{url}/usage") as answer:
                assert answer.status == 200

    names = [each.name for each in exporter.get_finished_spans()]
    assert names.count("GET /usage") == 3
    assert names.count("usage.refresh") == 1


@pytest.mark.parametrize(
    "decision",
    [(0.0, None, 0), (0.0, "01", 4), (1.0, "00", 0), (1.0, None, 4)],
    ids=["none", "caller wants", "caller does not", "all"],
)
async def test_the_client_decides_about_sampling(
    traced: MakeClient,
    ended: Ended,
    upstream: Upstream,
    decision: tuple[float, str | None, int],
) -> None:
    """The service decides only where a trace begins, and passes the decision on."""
    rate, flags, exported = decision
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-{flags}"} if flags else {}
    service = await traced(telemetry={**ON, "sample_rate": rate})
    await service.get("/usage", headers=headers)

    assert len(await ended(service)) == exported
    passed_on = {int(str(each[1])[-2:], 16) & SAMPLED for each in upstream.calls}
    assert passed_on == {SAMPLED if exported else 0}


# --- the collector ------------------------------------------------------------------


async def test_spans_reach_a_collector(
    traced: MakeClient, aiohttp_server: AiohttpServer
) -> None:
    """They are sent as OTLP over HTTP, the last of them before the end."""
    received = []

    async def collect(request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        received.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", collect)
    collector = await aiohttp_server(app)
    endpoint = str(collector.make_url("/"))
    service = await traced(
        telemetry={**ON, "otlp_endpoint": endpoint, "service_name": "ours"}
    )
    await service.get("/usage")
    await service.close()

    (sent,) = [each for batch in received for each in batch.resource_spans]
    attributes = {
        each.key: each.value.string_value for each in sent.resource.attributes
    }
    assert attributes["service.name"] == "ours"
    assert len(sent.scope_spans[0].spans) == 4


async def test_no_collector_is_no_failure(
    traced: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests and shutdown succeed without a collector."""
    monkeypatch.setattr(span_export, "EXPORT_TIMEOUT_S", 0.1)
    nowhere = f"http://127.0.0.1:{free_port()}"
    service = await traced(telemetry={**ON, "otlp_endpoint": nowhere})

    assert (await service.get("/usage")).status == 200
    await asyncio.wait_for(service.close(), GIVE_UP_S)

    assert not telemetry.is_on()


# --- off ----------------------------------------------------------------------------


async def test_without_traces_the_context_is_passed_on(
    traced: MakeClient, upstream: Upstream, log_entries: list[EventDict]
) -> None:
    """The context reaches the upstream, and its ids are in the log."""
    service = await traced(telemetry={"traces": False})
    await service.get("/usage", headers=CALLER)

    expected = CALLER["traceparent"], CALLER["tracestate"]
    assert [each[1:] for each in upstream.calls] == [expected] * 2
    ids = {(each["trace_id"], each["span_id"]) for each in log_entries}
    assert ids == {(TRACE_ID, PARENT_ID)}


@pytest.mark.parametrize(
    "headers",
    [{}, {"traceparent": "nonsense", "tracestate": "vendor=some"}],
    ids=["none", "invalid"],
)
async def test_without_traces_no_context_is_created(
    traced: MakeClient, upstream: Upstream, headers: dict[str, str]
) -> None:
    """Without a valid context from the caller, upstream gets none."""
    service = await traced(telemetry={"traces": False})
    await service.get("/usage", headers=CALLER)
    upstream.calls.clear()
    await service.get("/usage", headers=headers)

    assert [each[1:] for each in upstream.calls] == [(None, None)] * 2


@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
async def test_headers_of_clients_write_no_warnings(
    traced: MakeClient, caplog: pytest.LogCaptureFixture, is_on: object
) -> None:
    """OpenTelemetry's warnings about trace headers stay out of the log."""
    service = await traced(telemetry={"traces": is_on})
    await service.get("/usage", headers={**CALLER, "tracestate": "a=1,a=2,no"})
    await service.get("/usage", headers={"traceparent": "0" * 600})

    assert not [each for each in caplog.records if "opentelemetry" in each.name]


def test_the_extra_is_needed_only_where_traces_are_on() -> None:
    """Without it the service works; turning traces on names what is missing."""
    said = said_without("opentelemetry.sdk", telemetry={"traces": True})

    reason = "needs copilot-usage[otel] to be installed"
    assert said == f"telemetry.traces: {reason} (from command line)"


@pytest.mark.parametrize(
    "module, is_there",
    [("opentelemetry.sdk", True), ("opentelemetry.no", False), ("no.such", False)],
)
def test_a_missing_module_is_no_error(module: str, is_there: object) -> None:
    """A module whose package is missing too is just not installed."""
    assert is_installed(module) is is_there


@pytest.mark.parametrize("endpoint", ["", "collector:4318", "ftp://collector"])
def test_the_endpoint_has_to_be_a_url(endpoint: str) -> None:
    """A collector that cannot be one stops the start."""
    with pytest.raises(SettingsError, match=r"^telemetry\.otlp_endpoint: expected"):
        load(options={"telemetry": {"otlp_endpoint": endpoint}})
