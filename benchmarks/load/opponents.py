"""Servers for comparisons of a cached answer: bare aiohttp, nginx, and Redis."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.load.processes import (
    LOAD_CORE,
    POLL_S,
    SERVER_CORE,
    Missing,
    pinned,
    running,
    stop,
    tethered,
    tool,
)
from benchmarks.load.wrk import Target
from benchmarks.upstreams import free_port

FILE: Final = "usage"

_NGINX: Final = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {folder};
    }}
}}
"""


@contextmanager
def bare_handler(folder: Path) -> Iterator[Target]:
    """The folder's file out of a handler that does nothing else."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/{FILE}"
    module = [sys.executable, "-m", "benchmarks.load.bare"]
    command = pinned([SERVER_CORE], [*module, str(folder / FILE), str(port)])
    with running(command, url):
        yield Target(url)


@contextmanager
def nginx_worker(folder: Path) -> Iterator[Target]:
    """The folder's file out of one worker of nginx."""
    # Started by root, its worker is somebody else, and has to read the file.
    folder.chmod(0o755)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port))
    nginx = [tool("nginx", "nginx-light"), "-p", str(folder), "-c", str(config)]
    url = f"http://127.0.0.1:{port}/{FILE}"
    with running(pinned([SERVER_CORE], [*nginx, "-e", "stderr"]), url):
        yield Target(url)


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """The URL of a Redis on the load's core, which keeps nothing on disk."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command = [tool("redis-server", "redis-server"), *options]
    process = subprocess.Popen(  # noqa: S603 - our own command
        tethered(pinned([LOAD_CORE], command)), stdout=subprocess.DEVNULL, cwd=folder
    )
    try:
        while process.poll() is None and not _listens(port):
            time.sleep(POLL_S)
        if process.poll() is not None:
            raise Missing("redis-server does not start")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        stop(process)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
