"""Spans around requests, refreshes and tries, and the trace context sent to upstream.

Spans need the SDK of OpenTelemetry, which is an extra. The API alone propagates the
trace context of a client, also where traces are off.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from multidict import MultiMapping
from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import bound_contextvars

from service.settings import TelemetrySettings

TRACEPARENT: Final = "traceparent"
TRACE_HEADERS: Final = (TRACEPARENT, "tracestate")
SCOPE: Final = "copilot-usage"

Attributes = Mapping[str, str | int | float]
P = ParamSpec("P")
T = TypeVar("T")
Traced = Callable[P, Coroutine[Any, Any, T]]

_propagator: Final = TraceContextTextMapPropagator()

# The propagator warns about headers of clients, who could fill the log that way.
for _name in (trace.span.__name__, TraceContextTextMapPropagator.__module__):
    logging.getLogger(_name).setLevel(logging.ERROR)


class _ProcessTracing:
    tracer: Tracer | None = None


_process: Final = _ProcessTracing()


def is_on() -> bool:
    """Return true while spans are created."""
    return _process.tracer is not None


@asynccontextmanager
async def tracing(settings: TelemetrySettings) -> AsyncIterator[None]:
    """Create spans inside, if the settings turn traces on; export all at the end."""
    if not settings.traces:
        yield
        return
    from service.observability.span_export import open_provider

    provider = open_provider(settings)
    # OpenTelemetry's global provider can be set only once in a process, while each
    # application has its own and closes it.
    previous, _process.tracer = _process.tracer, trace.get_tracer(SCOPE, None, provider)
    try:
        yield
    finally:
        _process.tracer = previous
        # A shutdown waits for the collector, which would block the event loop.
        await asyncio.to_thread(provider.shutdown)


@contextmanager
def span(
    name: str,
    kind: SpanKind,
    attributes: Attributes,
    client_headers: MultiMapping[str] | None = None,
) -> Iterator[Span]:
    """Run the block in a span, whose ids its log lines have; any exception fails it.

    The parent is the active span, or that of `client_headers`. Where traces are off,
    the span is `INVALID_SPAN`, which ignores all calls.
    """
    if _process.tracer is None:
        yield trace.INVALID_SPAN
        return
    active = _process.tracer.start_as_current_span(
        name,
        context=None if client_headers is None else _extract(client_headers),
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    )
    with active as current, bound_contextvars(**_ids_of(current)):
        try:
            yield current
        except BaseException as error:
            error_type = getattr(error, "error_type", type(error).__name__)
            record(current, {"error.type": error_type})
            raise


def current_traceparent() -> str:
    """Return the trace context of the active span; empty where traces are off."""
    if _process.tracer is None:
        return ""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(TRACEPARENT, "")


def record(span: Span, attributes: Attributes) -> None:
    """Add attributes to a span; `error.type` marks it as failed."""
    span.set_attributes(attributes)
    if "error.type" in attributes:
        span.set_status(StatusCode.ERROR)


def in_span(name: str) -> Callable[[Traced[P, T]], Traced[P, T]]:
    """Return a decorator that runs a coroutine function in an internal span."""

    def decorate(function: Traced[P, T]) -> Traced[P, T]:
        @wraps(function)
        async def traced(*args: P.args, **kwargs: P.kwargs) -> T:
            with span(name, SpanKind.INTERNAL, {}):
                return await function(*args, **kwargs)

        return traced

    return decorate


def join_trace(headers: MultiMapping[str]) -> dict[str, str]:
    """Pass a client's trace context on to upstream, without spans of our own.

    Return its ids for the log; nothing without a valid `traceparent`.
    """
    extracted = _extract(headers)
    parent = trace.get_current_span(extracted)
    if not parent.get_span_context().is_valid:
        return {}
    # Never detached: aiohttp runs each request in a task, and so in its own context.
    context.attach(extracted)
    return _ids_of(parent)


def outgoing() -> dict[str, str]:
    """Return the headers that make a request to upstream part of the active trace."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers


def _extract(headers: MultiMapping[str]) -> context.Context:
    """Return the trace context of a client."""
    # All lines count: `tracestate` may have several, `traceparent` is invalid then.
    lines = {name: ", ".join(headers.getall(name, ())) for name in TRACE_HEADERS}
    return _propagator.extract({name: value for name, value in lines.items() if value})


def _ids_of(span: Span) -> dict[str, str]:
    """Return the ids by which log lines name a span."""
    ids = span.get_span_context()
    return {
        "trace_id": trace.format_trace_id(ids.trace_id),
        "span_id": trace.format_span_id(ids.span_id),
    }
