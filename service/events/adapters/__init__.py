"""Adapters from the formats of stock clients to our envelope, a module for each."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from service.events.adapters import cloudevents, segment
from service.events.adapters.conversion import Convert

ADAPTERS: Final[Mapping[str, Convert]] = MappingProxyType(
    {cloudevents.FORMAT: cloudevents.convert, segment.FORMAT: segment.convert}
)
"""The adapter of each format, by which failed events are read again, too."""
