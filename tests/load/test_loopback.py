"""Addresses to which load may be sent."""

import pytest

from benchmarks.load.loopback import loopback


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000"]
)
def test_this_machine_may_be_loaded(url: str) -> None:
    """A loopback address is accepted, without a slash at the end."""
    assert loopback(url + "/") == url


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1:8000",
        "http://0.0.0.0:8000",
        "https://example.org",
        "http://127.0.0.1.example.org",
        "http://localhost@example.org",
        "localhost:8000",
        "",
    ],
)
def test_no_other_machine_may_be_loaded(url: str) -> None:
    """Any other address is refused, and named."""
    with pytest.raises(ValueError, match="refused"):
        loopback(url)
