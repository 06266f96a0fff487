"""A sandbox upstream in a process of its own, which costs the measured one nothing."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from socket import AF_INET, SOCK_STREAM, socket
from typing import Final
from urllib.error import URLError

START_S: Final = 60.0


def free_port() -> int:
    """A port on the loopback address that nothing listens on."""
    with socket(AF_INET, SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def sandbox_process(*options: str) -> Iterator[str]:
    """Run `copilot-usage sandbox` with these options; yields its base URL."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "service",
        "sandbox",
        "--port",
        str(port),
        *options,
    ]
    process = subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_answering(f"{url}/reports/0")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def wait_until_answering(url: str) -> None:
    """Return once something answers there, whatever it says."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=START_S).close()  # noqa: S310 - loopback
        except urllib.error.HTTPError:
            return
        except (URLError, OSError):
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"nothing answers at {url}")
