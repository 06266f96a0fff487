"""Generated requests for a long time; `make soak` runs this, `make test` does not."""

import time

from tests.conformance import test_raw_requests as raw_requests
from tests.conformance.test_raw_requests import SOAK_S, port

__all__ = ["port"]


def test_generated_requests_for_a_long_time(port: int) -> None:
    """For as long as `SOAK_S` says, no answer breaks a rule and no request hangs."""
    end = time.monotonic() + SOAK_S
    while time.monotonic() < end:
        raw_requests.test_any_bytes_get_answers_that_are_http(port)
        raw_requests.test_every_good_request_is_answered(port)
        raw_requests.test_good_requests_before_a_broken_one_are_answered(port)
