"""Single requests over the standard library."""

import ssl
from http.client import HTTPConnection
from typing import Any

import pytest

from copilot_usage_client.transport import NoAnswer, Transport, parse_url
from tests.clients.answering import (
    Server,
    always,
)
from tests.patience import GIVE_UP_S


def test_an_answer_before_the_end_of_the_request_counts(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    """A service may refuse a request, and close, before it has read the body."""
    server.failures = iter([always(413)])
    send, body = HTTPConnection.send, b'{"id":"x"}\n'

    def break_off(self: HTTPConnection, data: Any) -> None:
        send(self, data)
        if data == body:
            raise BrokenPipeError

    monkeypatch.setattr(HTTPConnection, "send", break_off)
    transport = Transport(parse_url(server.url), GIVE_UP_S, None)
    answer = transport.post(body, {})
    transport.close()

    assert answer.status == 413


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9", "a" * 64 + ".test", "a..test", "[::1]:9"]
)
def test_what_cannot_be_reached_is_no_answer(host: str) -> None:
    """Neither a refused connection nor a name that cannot exist is anything else."""
    transport = Transport(parse_url(f"http://{host}"), GIVE_UP_S, None)
    with pytest.raises(NoAnswer):
        transport.post(b"", {})


def test_a_certificate_that_is_not_trusted_gets_no_key(server: Server) -> None:
    """`https` needs a certificate that the context trusts."""
    url = server.url.replace("http", "https")
    transport = Transport(parse_url(url), GIVE_UP_S, ssl.create_default_context())
    with pytest.raises(NoAnswer):
        transport.post(b"{}", {})

    assert server.received == []
