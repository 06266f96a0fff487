"""A period for the tests of the log, and requests with a known id."""

import pytest

from service.sandbox.server import RunningSandbox
from tests.conftest import Client, message, report


@pytest.fixture
def period(sandbox: RunningSandbox) -> RunningSandbox:
    """Four messages: of a report, of text, of a missing report, of an unusable id."""
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_messages(
        [
            message(1, "ignored", report_id=7),
            message(2, "What is the rent?"),
            message(3, "Hi", report_id="x y"),
            message(4, "Hi", report_id=None),
        ]
    )
    return sandbox


async def get(service: Client, path: str = "/usage") -> None:
    """Send a request with a known id."""
    response = await service.get(path, headers={"X-Request-ID": "some-id"})
    await response.read()
