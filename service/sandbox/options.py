"""Options of a sandbox: sizes, speed, and a switch for each fault."""

from typing import Annotated, Final, get_type_hints

from msgspec import Meta, Struct

MAX_ITEMS = 1_000_000

Probability = Annotated[float, Meta(ge=0, le=1)]
Size = Annotated[int, Meta(ge=0, le=MAX_ITEMS)]


class Faults(Struct, frozen=True, kw_only=True):
    """The probability of each fault: 0 is never, 1 is every request.

    The switches are drawn in their order here; the first hit decides the answer. As for
    every struct, bounds are checked on conversion.
    """

    not_found: Probability = 0.0
    """404 for every path."""
    too_many_requests: Probability = 0.0
    """429, with `retry_after`."""
    server_error: Probability = 0.0
    """500."""
    unavailable: Probability = 0.0
    """503, with `retry_after`."""
    reset: Probability = 0.0
    """The connection is reset (RST) before any answer; aiohttp's client then repeats
    the request once by itself."""
    hang: Probability = 0.0
    """No answer until the client disconnects or the server stops."""
    slow_drip: Probability = 0.0
    """The correct answer, a byte at a time."""
    truncated: Probability = 0.0
    """Half of the announced body, then the connection closes."""
    wrong_type: Probability = 0.0
    """200 with a mandatory field of the wrong type."""
    missing_field: Probability = 0.0
    """200 without a mandatory field."""
    html: Probability = 0.0
    """200 with a page of HTML."""
    gzip_bomb: Probability = 0.0
    """About 1 MiB of gzip on the wire that unpacks to 1 GiB."""
    redirect: Probability = 0.0
    """302 (307 after POST) to another path of the same server, which has the correct
    answer."""
    huge_body: Probability = 0.0
    """An uncompressed body that ends only when the client disconnects."""
    forbidden: Probability = 0.0
    """vPIC only: 403 with a page of HTML, as for a blocked client."""
    xml: Probability = 0.0
    """vPIC only: the correct answer, but as XML."""
    empty_list: Probability = 0.0
    """vPIC only: 200 without rows."""
    other_vins: Probability = 0.0
    """vPIC only: the rows of other VINs than requested."""
    missing_rows: Probability = 0.0
    """vPIC only: the rows of half of the VINs, rounded down."""

    retry_after: str = "1"
    """The `Retry-After` header of 429 and 503; empty for none."""
    path: str = ""
    """Only requests whose path starts with this get a fault."""
    times: Annotated[int, Meta(ge=0)] = 0
    """Only this number of matching requests get a fault; 0 is all of them."""


SWITCHES: Final = tuple(
    name
    for name, annotation in get_type_hints(Faults, include_extras=True).items()
    if annotation == Probability
)
"""The fields of `Faults` that switch a fault on; the others are its parameters."""


class SandboxOptions(Struct, frozen=True, kw_only=True):
    """The period to generate, and the delays and errors of the answers."""

    messages: Size = 110
    reports: Size = 8
    """Number of distinct reports."""
    seed: int = 7
    """The same seed and sizes give the same bytes."""
    latency_ms: Annotated[float, Meta(ge=0)] = 0.0
    """Delay before every answer, also before a fault."""
    error_rate: Probability = 0.0
    """Share of requests answered with a plain 500."""
    faults: Faults = Faults()
