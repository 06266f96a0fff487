"""An upstream whose period grows: each time it is asked, one percent is new.

    python -m benchmarks.load.growing MESSAGES PORT

`/base` is the period as it was at first, and asking for it lets nothing grow. Below a
prefix, such as `/a/messages/current-period`, it grows apart, and from the first again.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from aiohttp import web

from service.sandbox.options import SandboxOptions
from service.sandbox.periods import FIRST_ID, generate_period

REPORTS: Final = 100
NEW_PER_FETCH: Final = 0.01
MOST_GROWTHS: Final = 20
ENDING: Final = b"]}"
PIECE_BYTES: Final = 256 * 1024


class GrowingPeriod:
    """A period's messages, more of them at each call, and its reports."""

    def __init__(self, messages: int) -> None:
        period = generate_period(SandboxOptions(messages=messages, reports=REPORTS))
        self.base = period.messages_body
        self.reports = period.reports
        self._size = messages
        self._tails: list[bytes] = []
        self._growths: Counter[str] = Counter()
        # All at once, so that no caller waits for messages to be made.
        while len(self._tails) < MOST_GROWTHS:
            self._tails.append(self._next_tail())

    def next_body(self, prefix: str) -> list[memoryview]:
        """The base at first, then one percent more each time, for each prefix.

        In pieces: to join them takes as long as to send them, while the caller waits.
        """
        growths = min(self._growths[prefix], MOST_GROWTHS)
        self._growths[prefix] += 1
        begin = memoryview(self.base)[: -len(ENDING)]
        added = [memoryview(each) for each in (*self._tails[:growths], ENDING)]
        parts = [begin, *added]
        return [
            part[at : at + PIECE_BYTES]
            for part in parts
            for at in range(0, len(part), PIECE_BYTES)
        ]

    def _next_tail(self) -> bytes:
        """Messages that were never there, with texts of another seed."""
        number = len(self._tails) + 1
        new = max(1, int(self._size * NEW_PER_FETCH))
        options = SandboxOptions(messages=new, reports=0, seed=1_000 + number)
        first_id = FIRST_ID + self._size + (number - 1) * new
        messages = _renumbered(generate_period(options).messages_body, first_id)
        return b"".join(b"," + msgspec.json.encode(each) for each in messages)


def _renumbered(body: bytes, first_id: int) -> Iterator[dict[str, Any]]:
    for number, message in enumerate(msgspec.json.decode(body)["messages"], first_id):
        yield {**message, "id": number}


def create_app(messages: int) -> web.Application:
    """The upstream's two calls, and `/base`."""
    growing = GrowingPeriod(messages)

    async def answer_messages(request: web.Request) -> web.StreamResponse:
        pieces = growing.next_body(request.match_info.get("prefix", ""))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = sum(map(len, pieces))
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    async def answer_base(_request: web.Request) -> web.Response:
        return _json(growing.base)

    async def answer_report(request: web.Request) -> web.Response:
        body = growing.reports.get(unquote(request.match_info["id"]))
        return web.Response(status=404) if body is None else _json(body)

    app = web.Application()
    app.router.add_get("/base", answer_base)
    for prefix in ("", "/{prefix}"):
        app.router.add_get(f"{prefix}/messages/current-period", answer_messages)
        app.router.add_get(prefix + "/reports/{id}", answer_report)
    return app


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def main(messages: str, port: str) -> None:
    """Serve until SIGTERM."""
    web.run_app(
        create_app(int(messages)),
        host="127.0.0.1",
        port=int(port),
        access_log=None,
        print=lambda *_: None,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
