"""Settings of the section `webhooks`."""

from typing import Annotated

from msgspec import Meta, Struct

# An attempt ends before another process takes the delivery over.
AttemptSeconds = Annotated[float, Meta(gt=0, le=20)]


class WebhooksSettings(Struct, frozen=True, kw_only=True):
    """Delivery of what budgets fire."""

    allow_private: bool
    timeout_s: AttemptSeconds
