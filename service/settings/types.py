"""Types of settings with their bounds; times are in seconds."""

import importlib.util
import re
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta

# Upper bounds in seconds: 86,400 is a day, 31,536,000 is a year.
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
WaitSeconds = Annotated[float, Meta(ge=0, le=86_400)]
LongSeconds = Annotated[float, Meta(ge=0, le=31_536_000)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
PositiveCount = Annotated[int, Meta(ge=1, le=1_000_000)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Share = Annotated[float, Meta(ge=0, le=1)]
Threshold = Annotated[float, Meta(gt=0, le=1)]
Bytes = Annotated[int, Meta(ge=1)]
HeaderBytes = Annotated[int, Meta(ge=256, le=1_048_576)]

WRONG_PORT: Final = "Port out of range"
"""Begin of an error of `urllib`."""
NOT_A_URL: Final = (
    "not a URL with a valid host and port; in a password, characters such as / @ [ ] "
    "are percent-encoded"
)
OWN_ORIGIN: Final = "self"
"""The origin of the service, in the list of origins that may embed its page."""
MAX_PORT: Final = 65_535
DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
# A browser sends lower case, and no default port.
ORIGIN: Final = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*"
    r"|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
)


def split_url(url: str) -> SplitResult:
    """Return the parts of a URL with a valid port; raise `ValueError` without one."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        if str(error).startswith(WRONG_PORT):
            raise
        # Other errors quote a part of the URL, which may be one of a password.
        raise ValueError(NOT_A_URL) from None
    return parts


def check_base_url(url: str) -> None:
    """Raise `ValueError` for a URL to which no path can be appended."""
    parts = split_url(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("expected an http or https URL with a host")
    if parts.query or parts.fragment:
        raise ValueError("expected a URL to which paths can be appended")


def check_origin(text: str) -> None:
    """Raise `ValueError` for an origin that no browser sends in this form."""
    expected = "as browsers send it, such as https://www.example.com"
    found = ORIGIN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not an origin {expected}")
    port = found["port"]
    if port == DEFAULT_PORTS[found["scheme"]] or int(port or 1) > MAX_PORT:
        raise ValueError(f"{text!r} is not an origin {expected}")


def check_frame_ancestor(text: str) -> None:
    """Raise `ValueError` for a text that is neither `self` nor an origin."""
    if text != OWN_ORIGIN:
        check_origin(text)


def is_installed(module: str) -> bool:
    """Return whether a module of an extra is installed."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
