"""The attributes of aiohttp that the connections of the service need."""

import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from service.server.request_protocol import RequestProtocol

ROOT: Final = Path(__file__).parents[2]
ATTRIBUTES: Final = (
    "_keepalive_timeout",
    "_message_tail",
    "_messages",
    "_next_keepalive_close_time",
    "_paused",
    "_process_keepalive",
    "_request_count",
    "_request_factory",
    "_upgraded",
    "_waiter",
    "peername",
    "transport",
)
"""Attributes of aiohttp's protocol that `RequestProtocol` reads or sets."""


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_protocol_of_aiohttp_has_the_attribute(name: str) -> None:
    """A version without it would need another `RequestProtocol`."""
    assert hasattr(web.RequestHandler, name)


def test_a_minor_version_of_aiohttp_is_required() -> None:
    """The attributes are no interface: the next minor version may change them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    major, minor = version("aiohttp").split(".")[:2]
    required = f"aiohttp>={major}.{minor},<{major}.{int(minor) + 1}"
    assert required in project["dependencies"]
    assert issubclass(RequestProtocol, web.RequestHandler)
