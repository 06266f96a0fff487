"""A server of events in a thread of its own, which fails as a test says."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, Final, NamedTuple

from tests.patience import GIVE_UP_S

POLL_S: Final = 0.005


class Reply(NamedTuple):
    """An answer to a request; a status of 0 closes the connection without one."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Received(NamedTuple):
    """A request: its headers, and the events of its body."""

    headers: dict[str, str]
    body: bytes
    events: list[dict[str, Any]]


Answer = Callable[[Received], Reply]


class Server:
    """Gives each request the next of `failures`, then accepts all events."""

    def __init__(self) -> None:
        self.url = ""
        self.failures: Iterator[Answer] = iter(())
        self.received: list[Received] = []
        self.hung = Event()
        self.release = Event()

    @property
    def accepted(self) -> list[str]:
        """The ids of all events that requests brought, in order."""
        return [event["id"] for each in self.received for event in each.events]

    def answer(self, received: Received) -> Reply:
        """Answer the next request."""
        return next(self.failures, accept)(received)

    def hang(self, _received: Received) -> Reply:
        """Keep a request until the test ends."""
        self.hung.set()
        self.release.wait(GIVE_UP_S)
        return Reply(0)


def accept(received: Received) -> Reply:
    """Accept all events of a request."""
    return receipt(
        *({"id": each["id"], "status": "accepted"} for each in received.events)
    )


def receipt(*results: Any) -> Reply:
    """Return a receipt with these results."""
    return Reply(202, json.dumps({"results": results}).encode())


def always(status: int, body: bytes = b"", **headers: str) -> Answer:
    """Return an answer that is the same for all requests."""
    named = tuple((name.replace("_", "-"), text) for name, text in headers.items())
    return lambda _: Reply(status, body, named)


@contextmanager
def answering(port: int = 0) -> Iterator[Server]:
    """Run a server."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            events = [json.loads(line) for line in body.splitlines()]
            received = Received(dict(self.headers), body, events)
            reply = server.answer(received)
            if not reply.status:
                self.close_connection = True
                return
            if reply.status == 202:
                server.received.append(received)
            self.send_response(reply.status)
            for name, text in reply.headers:
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_arguments: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_address[1]}"
        listening.daemon_threads = True
        # A thread that hangs ends with the test.
        listening.block_on_close = False
        thread = Thread(target=listening.serve_forever, args=(POLL_S,))
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            listening.shutdown()
            thread.join(GIVE_UP_S)
