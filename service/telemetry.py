"""Traces: a span for each request, refresh and try, where they are turned on.

OpenTelemetry is an extra, which `service.otel` alone imports, and only then. Turned
off, spans are nothing; the caller's trace context is passed to upstream all the same.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final, Literal, ParamSpec, Protocol, TypeVar

from service.settings import Telemetry

CARRIED_HEADERS: Final = ("traceparent", "tracestate")

Kind = Literal["server", "client", "internal"]
Attributes = Mapping[str, str | int | float]
Note = Callable[[Attributes], None]
"""Adds attributes to a span; one with `error.type` marks it as failed."""


P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[P, Coroutine[Any, Any, T]]


class Tracer(Protocol):
    """What makes spans."""

    def span(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        caller: Mapping[str, str] | None,
    ) -> AbstractContextManager[Note]:
        """A span around what is done inside; `caller` are headers that name a parent.

        It is failed by any exception; log lines inside have its ids.
        """

    def outgoing(self) -> dict[str, str]:
        """Headers that make what is called a part of the active span's trace."""


class _State:
    tracer: Tracer | None = None


_state: Final = _State()
_carried: Final[ContextVar[dict[str, str] | None]] = ContextVar("carried", default=None)


def is_on() -> bool:
    """Whether spans are made."""
    return _state.tracer is not None


@asynccontextmanager
async def tracing(settings: Telemetry) -> AsyncIterator[None]:
    """Make spans, if the settings want them; at the end they are all sent."""
    if not settings.traces:
        yield
        return
    from service.otel import OtelTracer  # noqa: PLC0415 - what it needs is an extra

    tracer = OtelTracer(settings)
    before, _state.tracer = _state.tracer, tracer
    try:
        yield
    finally:
        _state.tracer = before
        # It waits for the collector, and the loop must not.
        await asyncio.to_thread(tracer.close)


@contextmanager
def span(
    name: str,
    kind: Kind,
    attributes: Attributes,
    caller: Mapping[str, str] | None = None,
) -> Iterator[Note]:
    """`Tracer.span`, or nothing where traces are off."""
    if _state.tracer is None:
        yield _note_nothing
        return
    with _state.tracer.span(name, kind, attributes, caller) as note:
        yield note


def in_span(name: str) -> Callable[[Work[P, T]], Work[P, T]]:
    """A decorator: all that a coroutine function does is one internal span."""

    def decorate(work: Work[P, T]) -> Work[P, T]:
        @wraps(work)
        async def spanned(*args: P.args, **kwargs: P.kwargs) -> T:
            with span(name, "internal", {}):
                return await work(*args, **kwargs)

        return spanned

    return decorate


def carry(headers: Mapping[str, str]) -> None:
    """Keep a caller's trace context for what is called in its name."""
    _carried.set({name: headers[name] for name in CARRIED_HEADERS if name in headers})


def outgoing() -> dict[str, str]:
    """Headers by which upstream joins the trace: of our span, else of our caller."""
    if _state.tracer is not None:
        return _state.tracer.outgoing()
    return _carried.get() or {}


def _note_nothing(_attributes: Attributes) -> None:
    """Without a span there is nothing to note."""
