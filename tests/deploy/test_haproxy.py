"""The file for HAProxy, in a real HAProxy before a real service."""

import asyncio
import re
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from yarl import URL

from service.events.query_parameters import MAX_WAIT_S
from service.settings import load
from tests.deploy.files import DEPLOY
from tests.deploy.test_nginx import SITE, make_certificate
from tests.machines.balancer import FILE, HAPROXY, REDIRECT, TLS, Balancer
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import LOOK_AGAIN_S, running, until

FOLDER: Final = DEPLOY / "haproxy"
TEXT: Final = FILE.read_text(encoding="utf-8")
UNITS: Final = {"ms": 0.001, "s": 1.0}
NEEDS_HAPROXY: Final = pytest.mark.skipif(not HAPROXY, reason="needs haproxy")
HIDDEN: Final = (
    "/metrics",
    "/health/ready",
    "/admin/state",
    "/%6detrics",
    "/%61dmin/state",
    "//metrics",
    "/usage/../metrics",
    "/usage/%2e%2e/metrics",
    "/./health/ready",
)


def seconds(name: str) -> float:
    """Return the time of a directive or of an option, in seconds."""
    found = re.search(rf"\b{name} (\d+)(ms|s)\b", TEXT)
    assert found is not None, name
    return int(found[1]) * UNITS[found[2]]


def test_its_times_fit_the_settings() -> None:
    """It notices a drain in time, waits longer than the service, and closes first."""
    for settings in (load().settings, load(FOLDER / "copilot-usage.toml").settings):
        server = settings.server
        assert seconds("timeout server") > server.request_timeout_s
        assert seconds("timeout server") > MAX_WAIT_S
        assert seconds("timeout http-request") == server.header_timeout_s
        assert seconds("pool-purge-delay") < server.keepalive_s
    noticed_s = seconds("inter") + seconds("fastinter") + 2 * seconds("timeout check")
    assert "fall 2 " in TEXT
    assert server.drain_s > noticed_s
    assert server.shutdown_grace_s - server.drain_s > server.request_timeout_s
    assert settings.health.require_snapshot


def test_it_opens_the_same_paths_as_nginx() -> None:
    """Paths for which a key is checked are open to all networks in both files."""
    (of_nginx,) = re.findall(r"location ~ \^/(\(events\S+) \{", SITE)
    (ours,) = re.findall(r"acl with_key var\(txn.path\) -m reg \^/(\S+)", TEXT)

    assert ours == of_nginx


@contextmanager
def balancing(folder: Path, port: int) -> Iterator[Balancer]:
    """Run HAProxy with TLS; all three machines are the same service."""
    make_certificate(folder)
    parts = [folder / "fullchain.pem", folder / "privkey.pem"]
    (folder / "site.pem").write_bytes(b"".join(each.read_bytes() for each in parts))
    own_port = free_port()
    tls = TLS.replace(":443", f"127.0.0.1:{own_port}")
    tls = re.sub(r"crt \S+", f"crt {folder / 'site.pem'}", tls)
    balancer = Balancer(folder, [port] * 3, {TLS: tls, REDIRECT: REDIRECT})
    balancer.tls_port = own_port
    assert "WARNING" not in balancer.check()
    try:
        balancer.start()
        yield balancer
    finally:
        balancer.stop()


class Client:
    """A client that uses TLS, and trusts the certificate of a folder."""

    def __init__(self, session: aiohttp.ClientSession, balancer: Balancer) -> None:
        self._session = session
        self._url = f"https://127.0.0.1:{balancer.tls_port}"
        certificate = balancer.file.parent / "fullchain.pem"
        self._tls = ssl.create_default_context(cafile=str(certificate))

    async def get(self, path: str, **headers: str) -> aiohttp.ClientResponse:
        """Return an answer to a path that is sent as it is written."""
        url = URL(self._url + path, encoded=True)
        async with self._session.get(url, ssl=self._tls, headers=headers) as answer:
            await answer.read()
            return answer


@NEEDS_HAPROXY
async def test_the_services_behind_it(tmp_path: Path) -> None:
    """It ends TLS, hides what is not for clients, and passes the address on."""
    settings = {
        "limits__trusted_proxies": "127.0.0.1",
        "limits__rate_per_s": 0.001,
        "limits__burst": 3,
    }
    timeout = aiohttp.ClientTimeout(total=GIVE_UP_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        with (
            running(tmp_path / "log", **settings) as service,
            balancing(tmp_path, service.port) as balancer,
        ):
            await until(lambda: balancer.serves(1, 2, 3))
            client = Client(session, balancer)
            hidden = {path: (await client.get(path)).status for path in HIDDEN}
            own_id = {"X-Request-ID": "mine"}
            answers = [await client.get("/usage", **own_id)]
            answers += [await client.get("/usage?key=cu_public")]
            # They invent addresses, and yet count as one client.
            for number in range(3):
                invented = {"X-Forwarded-For": f"192.0.2.{number}"}
                answers.append(await client.get("/usage", **invented))

    assert hidden == dict.fromkeys(HIDDEN, 404)
    assert [each.status for each in answers] == [200, 400, 200, 429, 429]
    assert answers[0].headers["X-Request-ID"] == "mine"
    assert answers[0].headers["Strict-Transport-Security"]
    log = balancer.log.read_text(encoding="utf-8")
    assert re.findall(r"GET /usage 200 .* mine$", log, re.MULTILINE)
    assert f"{answers[1].headers['X-Request-ID']}\n" in log
    assert "cu_public" not in log


@NEEDS_HAPROXY
async def test_clients_without_tls_are_redirected(tmp_path: Path) -> None:
    """The key of a client that calls http goes no further than to HAProxy."""
    with balancing(tmp_path, free_port()) as balancer:
        url = f"http://127.0.0.1:{balancer.port}/usage"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            assert answer.status == 308
            assert answer.headers["Location"].startswith("https://")


@NEEDS_HAPROXY
async def test_it_answers_alone_as_the_service_does(tmp_path: Path) -> None:
    """Without a machine it sends a problem document, which says when to try again."""
    with balancing(tmp_path, free_port()) as balancer:
        await until(lambda: not balancer.serves(1))
        async with aiohttp.ClientSession() as session:
            url = f"https://127.0.0.1:{balancer.tls_port}/usage"
            async with session.get(url, ssl=False) as answer:
                problem = await answer.json(content_type="application/problem+json")

    assert answer.status == problem["status"] == 503
    assert answer.headers["Retry-After"] == "1"


class DyingServer:
    """Dies, as it seems, at the first request of each method and path."""

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()

    async def handle(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Read a request, and answer it unless it is the first one of its kind."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
        except asyncio.IncompleteReadError:
            writer.close()
            return
        line = head.partition(" HTTP/")[0]
        self.received[line] += 1
        if self.received[line] > 1 or line == CHECK:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        writer.close()


CHECK: Final = "GET /health/ready"
SMALL: Final = b"x" * 1_000
LARGE: Final = b"x" * 20_000


@NEEDS_HAPROXY
@pytest.mark.parametrize(
    "method, path, body, status",
    [
        ("GET", "/usage", b"", 200),
        ("HEAD", "/usage", b"", 200),
        ("POST", "/events", SMALL, 200),
        ("POST", "/events/", SMALL, 200),
        ("POST", "/v1/batch", SMALL, 200),
        ("POST", "/api/v1/events", SMALL, 200),
        ("POST", "/events", LARGE, 502),
        ("POST", "/events/failed/replay", SMALL, 502),
        ("POST", "/vehicles/lookup", SMALL, 502),
        ("POST", "/keys", SMALL, 502),
        ("PUT", "/usage/budgets/office", SMALL, 502),
        ("DELETE", "/usage/budgets/office", b"", 502),
    ],
)
async def test_only_safe_requests_are_repeated(
    tmp_path: Path, method: str, path: str, body: bytes, status: int
) -> None:
    """A request whose machine dies is sent to another one if that does no harm."""
    dying = DyingServer()
    server = await asyncio.start_server(dying.handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, aiohttp.ClientSession() as session:
        with balancing(tmp_path, port) as balancer:
            await until_serving(balancer)
            url = f"https://127.0.0.1:{balancer.tls_port}{path}"
            async with session.request(method, url, data=body, ssl=False) as answer:
                assert answer.status == status
    assert dying.received[f"{method} {path}"] == (2 if status == 200 else 1)


async def until_serving(balancer: Balancer) -> None:
    """Wait for all machines; the loop of this test answers the checks meanwhile."""
    async with asyncio.timeout(GIVE_UP_S):
        while not await asyncio.to_thread(balancer.serves, 1, 2, 3):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)
