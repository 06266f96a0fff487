"""Query parameters of the endpoints of events."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from service.events.failed_statements import FailedFilter, FailedStatus
from service.events.model import MAX_NAME_CHARS
from service.events.statements import CountedBy, EventFilter, Storable
from service.web.parameters import parse_instant

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000

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

    def filter(self, application: str) -> EventFilter:
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

    def failed_filter(self, application: str) -> FailedFilter:
        """Return the filter of a query; raises `InvalidParameter`."""
        return FailedFilter(
            **self.filter(application)._asdict(),
            id=self.id,
            code=self.code,
            status=self.status,
        )


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
