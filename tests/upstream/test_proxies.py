"""The proxy of the environment, over sockets: for HTTP, for HTTPS, and exceptions."""

import asyncio
import ssl
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web
from structlog.typing import EventDict

from service.sandbox.embedded import with_sandbox
from service.upstream import errors
from service.upstream.bodies import UpstreamResponse
from service.upstream.client import open_client
from tests.conftest import MakeSettings
from tests.upstream.conftest import sections

USER, PASSWORD = "me", "very:secret"
CREDENTIALS: Final = f"Basic {b64encode(b'me:very:secret').decode()}"


class Proxy:
    """A small HTTP proxy, which forwards requests and opens tunnels."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[str] = []
        """The first lines of the requests."""
        self.credentials: list[str] = []
        self.status = 200

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one connection: a tunnel, or one request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *fields = head.splitlines()
        self.requests.append(line)
        headers = dict(each.split(": ", 1) for each in fields if each)
        self.credentials.append(headers.get("Proxy-Authorization", ""))
        method, target, _ = line.split()
        if self.status != 200:
            writer.write(f"HTTP/1.1 {self.status} No\r\n\r\n".encode())
        elif method == "CONNECT":
            host, _, port = target.rpartition(":")
            answers, requests = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await asyncio.gather(pump(reader, requests), pump(answers, writer))
        else:
            body = b'{"by": "proxy"}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body))
            writer.write(b"Content-Type: application/json\r\n\r\n" + body)
        writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the end."""
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    except ConnectionError:
        pass
    writer.close()


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    """A running proxy, and an environment without any."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    made = Proxy()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture
async def secure_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """The URL of a server with TLS, whose certificate clients trust."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    subject = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(  # noqa: ASYNC221, S603 - a moment
        ["openssl", *options.split(), *files, *subject.split()],  # noqa: S607
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"by": "upstream"})

    runner = web.ServerRunner(web.Server(answer))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def fetch(
    settings: MakeSettings, base_url: str, **upstream: Any
) -> UpstreamResponse:
    """Fetch one answer as the service does."""
    calls = {"base_url": base_url, "attempts": 1, **upstream}
    async with open_client(*sections(settings(upstream=calls))) as client:
        return await client.fetch("/one")


@pytest.mark.parametrize("is_secret", [False, True], ids=["open", "credentials"])
async def test_https_goes_through_a_tunnel(
    settings: MakeSettings,
    proxy: Proxy,
    secure_upstream: str,
    *,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
    is_secret: bool,
) -> None:
    """The proxy sees the host only; its credentials are sent, and in no log line."""
    login = f"{USER}:{PASSWORD.replace(':', '%3A')}@" if is_secret else ""
    monkeypatch.setenv("HTTPS_PROXY", f"http://{login}{proxy.address}")

    answer = await fetch(settings, secure_upstream)

    host = secure_upstream.removeprefix("https://")
    assert answer.body == b'{"by": "upstream"}'
    assert proxy.requests == [f"CONNECT {host} HTTP/1.1"]
    assert proxy.credentials == [CREDENTIALS if is_secret else ""]
    assert "secret" not in repr(log_entries)
    assert log_entries[0] == {
        "event": "upstream.proxy",
        "log_level": "info",
        "upstream": "copilot",
        "proxy": f"http://{proxy.address}",
    }


@pytest.mark.parametrize("scheme", ["http://", ""], ids=["URL", "host and port"])
async def test_http_is_forwarded(
    settings: MakeSettings,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
) -> None:
    """The proxy gets the whole URL and its credentials."""
    monkeypatch.setenv("http_proxy", f"{scheme}me:very%3Asecret@{proxy.address}")

    answer = await fetch(settings, "http://upstream.test/api")

    assert answer.body == b'{"by": "proxy"}'
    assert proxy.requests == ["GET http://upstream.test/api/one HTTP/1.1"]
    assert proxy.credentials == [CREDENTIALS]


@pytest.mark.parametrize("status", [407, 502])
async def test_a_proxy_that_refuses(
    settings: MakeSettings,
    proxy: Proxy,
    secure_upstream: str,
    *,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
    status: int,
) -> None:
    """The connection could not be opened; neither error nor log has the credentials."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:very%3Asecret@{proxy.address}")
    proxy.status = status

    with pytest.raises(errors.ConnectFailed) as raised:
        await fetch(settings, secure_upstream)

    assert "secret" not in str(raised.value) + repr(log_entries)


async def test_a_proxy_that_is_down(
    settings: MakeSettings,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    unused_tcp_port: int,
) -> None:
    """The error names its address, without the credentials."""
    del proxy
    address = f"me:very%3Asecret@127.0.0.1:{unused_tcp_port}"
    monkeypatch.setenv("HTTP_PROXY", f"http://{address}")

    with pytest.raises(errors.ConnectFailed) as raised:
        await fetch(settings, "http://upstream.test")

    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "no_proxy, options",
    [
        ("127.0.0.1", {}),
        ("a.test, 127.0.0.1", {}),
        ("*", {}),
        ("", {"trust_environment": False}),
    ],
    ids=["host", "list", "all", "setting"],
)
async def test_exceptions(
    settings: MakeSettings,
    proxy: Proxy,
    secure_upstream: str,
    *,
    monkeypatch: pytest.MonkeyPatch,
    no_proxy: str,
    options: dict[str, Any],
) -> None:
    """Hosts of `NO_PROXY` are called directly, and all if the setting says so."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    monkeypatch.setenv("NO_PROXY", no_proxy)

    answer = await fetch(settings, secure_upstream, **options)

    assert answer.body == b'{"by": "upstream"}'
    assert proxy.requests == []


@pytest.mark.parametrize("text", ["socks5://me:secret@127.0.0.1:1", "http://", "a:b:c"])
async def test_an_unusable_proxy_is_ignored(
    settings: MakeSettings,
    proxy: Proxy,
    secure_upstream: str,
    *,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
    text: str,
) -> None:
    """A warning says so, without the text, which may have credentials."""
    monkeypatch.setenv("HTTPS_PROXY", text)

    assert (await fetch(settings, secure_upstream)).body == b'{"by": "upstream"}'

    assert proxy.requests == []
    assert log_entries[0] == {
        "event": "upstream.proxy_ignored",
        "log_level": "warning",
        "upstream": "copilot",
    }


async def test_the_sandbox_has_no_proxy(
    settings: MakeSettings, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox in this process is called directly."""
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
    async with (
        with_sandbox(settings(sandbox={"enabled": True})) as made,
        open_client(*sections(made)) as client,
    ):
        await client.fetch("/messages/current-period")
    assert proxy.requests == []


async def test_passwords_of_netrc_are_not_sent(
    settings: MakeSettings,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """aiohttp would send them with its own `trust_env`."""
    (tmp_path / "netrc").write_text("machine upstream.test login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
    sent: list[aiohttp.ClientRequest] = []
    send = aiohttp.ClientRequest.send

    async def record(request: aiohttp.ClientRequest, *given: Any) -> Any:
        sent.append(request)
        return await send(request, *given)

    monkeypatch.setattr(aiohttp.ClientRequest, "send", record)
    await fetch(settings, "http://upstream.test")

    assert "Authorization" not in sent[0].headers
