"""A watch over pages: errors, policy violations, requests to other origins."""

import re
from typing import Final

from playwright.async_api import BrowserContext, ConsoleMessage, Request, WebError

INLINE: Final = ("data:", "blob:")
"""Schemes of URLs without a request."""

REPORT_VIOLATIONS: Final = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy violated: ${event.effectiveDirective} ${event.blockedURI}`);
});
"""


class Watch:
    """Records offences and requests of the pages of a context."""

    def __init__(self, origin: str) -> None:
        self.offences: list[str] = []
        self.requests: list[str] = []
        self._origin = origin
        self._expected: list[re.Pattern[str]] = []

    async def observe(self, context: BrowserContext) -> None:
        """Observe a context that has no pages yet."""
        await context.add_init_script(REPORT_VIOLATIONS)
        context.on("console", self._hear)
        context.on("weberror", self._note_error)
        context.on("request", self._note_request)

    def expect(self, pattern: str) -> None:
        """Allow an error that the test provokes."""
        self._expected.append(re.compile(pattern))

    def count_requests(self, path: str) -> int:
        """Return the number of requests for a path, with any query."""
        url_of_path = self._origin + path
        return sum(url.partition("?")[0] == url_of_path for url in self.requests)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self._offend(f"console: {message.text}")

    def _note_error(self, error: WebError) -> None:
        self._offend(f"thrown: {error.error}")

    def _note_request(self, request: Request) -> None:
        self.requests.append(request.url)
        if not request.url.startswith((self._origin + "/", *INLINE)):
            self._offend(f"another origin: {request.url}")

    def _offend(self, offence: str) -> None:
        if not any(pattern.search(offence) for pattern in self._expected):
            self.offences.append(offence)
