"""Query parameters of the endpoints of events."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from service.events.failed_statements import FailedFilter, FailedStatus
from service.events.model import MAX_NAME_CHARS
from service.events.statements import CountedBy, EventFilter, Storable
from service.web.parameters import InvalidParameter, parse_instant

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000
MAX_FEED_LIMIT: Final = 100_000
"""Maximum of a page that is streamed, which needs no memory for the whole page."""
MAX_WAIT_S: Final = 30

ALL: Final = "*"
"""The parameter `application` for all applications."""

Text = Annotated[Storable, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
"""The bounds of a stored name: no other value can match."""
Application = Annotated[
    Text | None,
    Meta(description="Another application; the key must have the read-all right."),
]


class FilterParameters(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of every list of events."""

    session_id: Annotated[
        Text | None, Meta(description="Only events of this session.")
    ] = None
    category: Annotated[
        Text | None, Meta(description="Only events of this category.")
    ] = None
    name: Annotated[Text | None, Meta(description="Only events of this name.")] = None
    since: Annotated[
        str | None, Meta(description="Only events at or after this time.")
    ] = msgspec.field(name="from", default=None)
    until: Annotated[str | None, Meta(description="Only events before this time.")] = (
        msgspec.field(name="to", default=None)
    )
    application: Application = None

    def filter(self, application: str | None) -> EventFilter:
        """Return the filter of a query; raises `InvalidParameter`."""
        return EventFilter(
            application=application,
            session_id=self.session_id,
            category=self.category,
            name=self.name,
            since=parse_instant("from", self.since),
            until=parse_instant("to", self.until),
        )


class ListParameters(FilterParameters, frozen=True, kw_only=True):
    """The parameters of lists that are paged."""

    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)],
        Meta(description="Maximum number of events on a page."),
    ] = DEFAULT_LIMIT
    cursor: Annotated[
        str | None, Meta(description="The next page, from a Link header.")
    ] = None


class EventListParameters(ListParameters, frozen=True, kw_only=True):
    """The parameters of `GET /events`."""

    order: Annotated[
        Literal["time", "arrival"],
        Meta(
            description="`arrival` is the feed: each stored event once, in an order "
            "that never changes, with a next page always."
        ),
    ] = "time"
    wait_s: Annotated[
        Annotated[float, Meta(ge=0, le=MAX_WAIT_S)],
        Meta(description="Time to wait for events that match; for the feed only."),
    ] = 0.0
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_FEED_LIMIT)] | None,
        Meta(
            description=f"Maximum number of events on a page; {DEFAULT_LIMIT} by "
            f"default. JSON has at most {MAX_LIMIT}. The feed as NDJSON or Parquet has "
            f"{MAX_FEED_LIMIT:,} by default."
        ),
    ] = None  # type: ignore[assignment]

    def page_limit(self, *, is_streamed: bool) -> int:
        """Return the limit of a page; raises `InvalidParameter`."""
        if is_streamed:
            return self.limit or MAX_FEED_LIMIT
        limit = self.limit or DEFAULT_LIMIT
        if limit > MAX_LIMIT:
            raise InvalidParameter("limit", f"expected at most {MAX_LIMIT} for JSON")
        return limit


FailedId = Annotated[
    Text | None, Meta(description="Only this failed event; a receipt names its id.")
]


class FailedParameters(ListParameters, frozen=True, kw_only=True):
    """The parameters of lists of failed events; `from` and `to` mean their arrival."""

    id: FailedId = None
    code: Annotated[
        Text | None, Meta(description="Only events with an error of this code.")
    ] = None
    status: Annotated[
        FailedStatus,
        Meta(description="Superseded events are those whose id was accepted later."),
    ] = "failed"

    untyped: Annotated[
        bool,
        Meta(description="Only events whose category or name could not be read."),
    ] = False

    def failed_filter(self, application: str | None) -> FailedFilter:
        """Return the filter of a query; raises `InvalidParameter`."""
        return FailedFilter(
            **self.filter(application)._asdict(),
            id=self.id,
            code=self.code,
            status=self.status,
            is_untyped=self.untyped,
        )


class GroupParameters(FilterParameters, frozen=True, kw_only=True):
    """The parameters of groups; `from` and `to` mean the arrival."""

    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)],
        Meta(description="Maximum number of groups."),
    ] = DEFAULT_LIMIT


class FailedSelection(FailedParameters, frozen=True, kw_only=True):
    """The same parameters as a JSON body."""


class StatsParameters(FilterParameters, frozen=True, kw_only=True):
    """The parameters of counts."""

    by: Annotated[
        CountedBy | Literal["error"], Meta(description="The property to count by.")
    ] = "category"
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)],
        Meta(description="Maximum number of values; hours are not limited."),
    ] = DEFAULT_LIMIT
    zeros: Annotated[
        bool, Meta(description="By hour: list hours without events, too.")
    ] = False


class ApplicationParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a resource of one application."""

    application: Application = None
