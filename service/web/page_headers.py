"""Security headers: those of every answer, and those of pages.

The headers of pages forbid browsers every unused feature.
"""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import hdrs, web
from multidict import CIMultiDict

from service.settings.types import OWN_ORIGIN

NO_SNIFFING: Final = {"X-Content-Type-Options": "nosniff"}
"""Browsers must not guess another media type than the stated one."""

_UNUSED_FEATURES: Final = (
    "accelerometer",
    "camera",
    "display-capture",
    "geolocation",
    "gyroscope",
    "microphone",
    "midi",
    "payment",
    "usb",
)


def page_headers(*sources: str, frame_ancestors: Sequence[str] = ()) -> dict[str, str]:
    """Return the headers of a page that may load from these sources only.

    Pages of the origins `frame_ancestors` may show it in a frame; no page by default.
    """
    ancestors = ["'self'" if each == OWN_ORIGIN else each for each in frame_ancestors]
    embedding = " ".join(ancestors or ["'none'"])
    policy = (
        "default-src 'none'",
        *sources,
        "base-uri 'none'",
        "form-action 'none'",
        f"frame-ancestors {embedding}",
    )
    return {
        "Content-Security-Policy": "; ".join(policy),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": ", ".join(f"{each}=()" for each in _UNUSED_FEATURES),
        "Referrer-Policy": "no-referrer",
        **NO_SNIFFING,
    }


def protect_answer(request: web.BaseRequest) -> None:
    """Have the answer that aiohttp writes to a request state no software, and no guess.

    Answers that are written as raw bytes have `NO_SNIFFING` themselves.
    """
    # A signal of the application would miss the answers to malformed requests.
    writer: Any = request.writer
    writer._on_headers_sent = _protect


async def _protect(headers: CIMultiDict[str]) -> None:
    headers.popall(hdrs.SERVER, None)
    headers.update(NO_SNIFFING)


def style_source(style: str) -> str:
    """Return the policy directive that permits one inline style, by its hash."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"style-src 'sha256-{digest}'"
