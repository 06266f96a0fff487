"""Replay the Dockerfile without Docker: install, start, check its health, stop.

Every stage gets an empty folder that stands for the image's file system; its commands
may name paths under /app only. The result is started by the image's entry point, must
pass the image's health check and serve the dashboard, and must stop on SIGTERM with
status 0. A step that fails or overruns its time ends the script with status 1. Without
Node.js the stages that need it are skipped, but not in CI.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

from scripts.dockerfile import ROOT, BrokenImageError, read_stages
from scripts.image import STEP_TIMEOUT_S, Image

WORK: Final = ROOT / ".cache" / "image"
IMAGE_PORT: Final = 8000
DASHBOARD: Final = "/dashboard/"
START_TIMEOUT_S: Final = 30
STOP_TIMEOUT_S: Final = 30
POLL_INTERVAL_S: Final = 0.2
LABEL: Final = "org.opencontainers.image."
LABELS: Final = ("title", "description", "licenses", "version")


@contextmanager
def started(image: Image, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the image's entry point; show what it said where the block fails."""
    argv = [*image.argv["ENTRYPOINT"], *image.argv["CMD"], "--sandbox"]
    argv += ["--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            argv,
            cwd=image.workdir,
            env=image.env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield server
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode())
            raise
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)


def exercise(image: Image, *, is_built: bool) -> None:
    """Start what was installed on a free port, check all it serves, stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with started(image, port) as server:
        await_health(image, port, server)
        check_labels(image, f"http://127.0.0.1:{port}")
        check_dashboard(f"http://127.0.0.1:{port}", is_built=is_built)
        server.terminate()
        if server.wait(STOP_TIMEOUT_S):
            raise BrokenImageError(f"SIGTERM ended it with {server.returncode}")


def await_health(image: Image, port: int, server: subprocess.Popen[bytes]) -> None:
    """Ask the image's health check until it passes, the server ends or time is up."""
    check = [
        part.replace(f":{IMAGE_PORT}/", f":{port}/")
        for part in image.argv["HEALTHCHECK"]
    ]
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline_s:
        if image.run(check).returncode == 0:
            return
        time.sleep(POLL_INTERVAL_S)
    raise BrokenImageError("the service never passed its health check")


def check_labels(image: Image, url: str) -> None:
    """Compare the labels with the service; its version must be the image's."""
    labels = {each: image.labels.get(LABEL + each) for each in LABELS}
    _, index = fetch(url + "/")
    if None in labels.values() or labels["version"] != json.loads(index)["version"]:
        raise BrokenImageError(f"labels: {labels}; the service: {index}")


def check_dashboard(url: str, *, is_built: bool) -> None:
    """Fetch the page and its assets, or the notice where none was built."""
    status, page = fetch(url + DASHBOARD)
    if not is_built:
        if status != HTTPStatus.NOT_FOUND or "make dashboard" not in page:
            raise BrokenImageError(f"without a page, {DASHBOARD} answers {status}")
        return
    assets = re.findall(rf'"({DASHBOARD}assets/[^"]+)"', page)
    if status != HTTPStatus.OK or not assets:
        raise BrokenImageError(f"{DASHBOARD} answers {status}, assets: {assets}")
    for asset in assets:
        status, _ = fetch(url + asset)
        if status != HTTPStatus.OK:
            raise BrokenImageError(f"{asset} answers {status}")


def fetch(url: str) -> tuple[int, str]:
    """Give an answer's status and text."""
    try:
        with urllib.request.urlopen(  # noqa: S310 - a server of our own
            url, timeout=START_TIMEOUT_S
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def find_node() -> Path | None:
    """Find the Node.js that builds the dashboard, if there is one new enough."""
    checked = subprocess.run(
        [ROOT / "scripts" / "has-node"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=STEP_TIMEOUT_S,
        check=False,
    )
    found = shutil.which("node")
    if checked.returncode == 0 and found is not None:
        return Path(found)
    if os.environ.get("CI"):
        raise BrokenImageError(f"CI needs Node.js: {checked.stdout.strip()}")
    sys.stdout.write("Dockerfile: no Node.js here, so its stage is skipped\n")
    return None


def main() -> None:
    """Replay the Dockerfile and say in one line how it went."""
    began_s = time.monotonic()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    WORK.mkdir(parents=True, exist_ok=True)
    # Without it the wheel's build would find that of the checkout.
    (WORK / ".gitignore").touch()
    try:
        node = find_node()
        image = Image(WORK, node, {"VERSION": project["project"]["version"]})
        image.build(read_stages((ROOT / "Dockerfile").read_text()))
        exercise(image, is_built=node is not None)
    except (BrokenImageError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"Dockerfile: {error}")
    sys.stdout.write(
        f"Dockerfile: installs, starts and stops ({time.monotonic() - began_s:.0f} s)\n"
    )


if __name__ == "__main__":
    main()
