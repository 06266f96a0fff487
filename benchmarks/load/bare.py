"""The comparison for a cached answer: a bare aiohttp handler with the same bytes.

python -m benchmarks.load.bare FILE PORT
"""

import sys
from pathlib import Path

import uvloop
from aiohttp import web


def main(file: str, port: str) -> None:
    """Serve the file's bytes as JSON at every path until SIGTERM."""
    body = Path(file).read_bytes()

    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(port),
        access_log=None,
        print=lambda *_: None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
