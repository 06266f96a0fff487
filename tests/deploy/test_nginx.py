"""The site for nginx, in a real nginx before a real service."""

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from service.settings import load
from tests.deploy.files import DEPLOY
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import running

SITE: Final = (DEPLOY / "nginx" / "copilot-usage.conf").read_text(encoding="utf-8")
NGINX: Final = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
MAIN: Final = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""
LOOK_AGAIN_S: Final = 0.01


def test_its_limits_fit_the_shipped_settings() -> None:
    """nginx closes idle connections first, waits longer, and refuses larger bodies."""
    settings = load().settings
    sizes = {settings.server.max_body_bytes, settings.events.max_body_bytes}

    assert sizes == {int(value_of("client_max_body_size", "m")) * 1024**2}
    assert value_of("keepalive_timeout", "s") < settings.server.keepalive_s
    assert value_of("proxy_read_timeout", "s") > settings.server.request_timeout_s
    assert f"server 127.0.0.1:{settings.server.port};" in SITE


def value_of(directive: str, unit: str) -> float:
    """Return the number of a directive."""
    found = re.search(rf"^\s*{directive} (\d+){unit};", SITE, re.MULTILINE)
    assert found is not None
    return float(found[1])


@pytest.mark.skipif(not NGINX, reason="needs nginx")
async def test_the_service_behind_it(tmp_path: Path) -> None:
    """It terminates TLS, hides what has no key, and passes on the client's address."""
    settings = {
        "events__enabled": True,
        "storage__url": f"sqlite+aiosqlite:///{tmp_path}/events.db",
        "limits__trusted_proxies": "127.0.0.1",
        "limits__rate_per_s": 0.001,
        "limits__burst": 3,
    }
    port = free_port()
    with (
        running(tmp_path / "log", **settings) as service,
        proxy(tmp_path, port, service.port),
    ):
        statuses = await ask_proxy(f"https://127.0.0.1:{port}", tmp_path)

    # The last ones invent addresses, and yet count as one client.
    assert statuses == [404, 404, 200, 401, 200, 429, 429]


@pytest.mark.skipif(not NGINX, reason="needs nginx")
async def test_its_logs_have_no_keys(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither for an answer, nor for a large body, nor without the service."""
    port, service_port = free_port(), free_port()
    with proxy(tmp_path, port, service_port):
        trusted = ssl.create_default_context(cafile=str(tmp_path / "fullchain.pem"))
        connector = aiohttp.TCPConnector(ssl=trusted)
        async with aiohttp.ClientSession(connector=connector) as session:
            for path, size, status in (
                ("/events", 2, 502),
                ("/events/", 2, 502),
                ("/events", 2 * 1024**2, 413),
                ("/v1/track", 2, 502),
                ("/api/v1/events", 2, 502),
            ):
                url = f"https://127.0.0.1:{port}{path}?key=cu_public"
                async with session.post(url, data=BytesIO(b" " * size)) as answer:
                    assert answer.status == status, path
    log = (tmp_path / "copilot-usage.log").read_text(encoding="utf-8")
    assert '"POST /events" 502 ' in log
    assert "cu_public" not in log + "".join(capfd.readouterr())


async def ask_proxy(url: str, folder: Path) -> list[int]:
    """Send requests through nginx, and return the status of each answer."""
    trusted = ssl.create_default_context(cafile=str(folder / "fullchain.pem"))
    requests = [
        ("/metrics", {}),
        ("/health/ready", {}),
        ("/usage", {}),
        ("/events", {}),
        *(("/usage", {"X-Forwarded-For": f"192.0.2.{n}"}) for n in range(3)),
    ]
    statuses = []
    connector = aiohttp.TCPConnector(ssl=trusted)
    async with (
        asyncio.timeout(GIVE_UP_S),
        aiohttp.ClientSession(connector=connector) as session,
    ):
        for path, headers in requests:
            async with session.get(url + path, headers=headers) as answer:
                statuses.append(answer.status)
    return statuses


@contextmanager
def proxy(folder: Path, port: int, service_port: int) -> Iterator[None]:
    """Run nginx with the site, which only has other ports and another certificate."""
    make_certificate(folder)
    site = re.sub(r"^ *listen \[::\].*\n", "", SITE, flags=re.MULTILINE)
    for old, new in {
        "listen 443": f"listen 127.0.0.1:{port}",
        "127.0.0.1:8000": f"127.0.0.1:{service_port}",
        "/etc/ssl/usage.example.com": str(folder),
        "/var/log/nginx": str(folder),
    }.items():
        assert old in site
        site = site.replace(old, new)
    (folder / "site.conf").write_text(site)
    main = folder / "nginx.conf"
    main.write_text(MAIN.format(folder=folder))
    command = [str(NGINX), "-e", "stderr", "-c", str(main)]
    checked = subprocess.run(
        [*command, "-t"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr, checked.stderr
    with subprocess.Popen(command) as process:
        try:
            while not listens(port):
                assert process.poll() is None
                time.sleep(LOOK_AGAIN_S)
            yield
        finally:
            process.terminate()


def listens(port: int) -> bool:
    """Return whether a connection to a port of this machine can be opened."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def make_certificate(folder: Path) -> None:
    """Make a certificate of 127.0.0.1 that signs itself."""
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    key, certificate = str(folder / "privkey.pem"), str(folder / "fullchain.pem")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", *options.split(), "-keyout", key, "-out", certificate, *subject],
        check=True,
        capture_output=True,
    )
