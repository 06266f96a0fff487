"""A client for applications that send events to the Copilot usage service.

    with Client("https://usage.example.com", key) as client:
        client.track("page interaction", "pageview", {"path": "/"}, session_id="s1")

`track` puts an event into memory and returns. A background thread, or a task of the
event loop with `AsyncClient`, sends the events in batches. Events that cannot be
delivered wait in files, also after the end of the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from copilot_usage_client.base import Counts
from copilot_usage_client.client import Client
from copilot_usage_client.problems import Problem

if TYPE_CHECKING:
    from copilot_usage_client.async_client import AsyncClient

__all__ = ["AsyncClient", "Client", "Counts", "Problem"]


def __getattr__(name: str) -> Any:
    # `AsyncClient` needs aiohttp, which synchronous applications do not install.
    if name != "AsyncClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from copilot_usage_client.async_client import AsyncClient  # noqa: PLC0415

    return AsyncClient
