"""Settings of the section `health`."""

from typing import Annotated

from msgspec import Meta, Struct


class HealthSettings(Struct, frozen=True, kw_only=True):
    """The first refresh of a process, and its readiness."""

    warm_up: bool
    # Less than the time after which a worker that does not report is killed.
    warm_up_s: Annotated[float, Meta(ge=0, le=30)]
    require_snapshot: bool
