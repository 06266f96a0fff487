"""Generated requests for a long time; `make soak` runs this, `make test` does not."""

import time

from tests.server.repeating import Repeating
from tests.server.test_equal_answers import (
    EXAMPLES,
    SOAK_S,
    compare_generated,
    service,
    tag_of,
)

__all__ = ["service"]


async def test_generated_requests_for_a_long_time(service: Repeating) -> None:
    """For a quarter of `SOAK_S`, both ways give the same bytes."""
    end, tag = time.monotonic() + SOAK_S / 4, await tag_of(service)
    while time.monotonic() < end:
        await compare_generated(service, tag, EXAMPLES)
