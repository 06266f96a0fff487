"""Replay the Dockerfile without Docker: install, start, ask its health, stop.

Every stage gets an empty directory that stands for the image's file system; its
commands may name paths under /app only. What is installed is then started by the
image's own entry point, asked by its own health check and for its dashboard, and must
stop on SIGTERM with status 0. A step that fails or overruns its time ends the script
with status 1. Without Node.js the stages that need it are left out, but not in CI.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from http import HTTPStatus
from pathlib import Path, PurePath

PROJECT = Path(__file__).resolve().parent.parent
IMAGE_PORT = 8000
DASHBOARD = "/dashboard/"
STEP_TIMEOUT_S = 300
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30
POLL_INTERVAL_S = 0.2


class BrokenImageError(Exception):
    """The image would not build, start or stop as it should."""


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Yield each instruction's name and its arguments, continued lines joined."""
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line:
            name, _, arguments = line.partition(" ")
            yield name, arguments


def exec_form(arguments: str) -> list[str]:
    """Read a command's JSON list; a shell in between would swallow signals."""
    _, bracket, rest = arguments.partition("[")
    if not bracket:
        raise BrokenImageError(f"not in exec form: {arguments}")
    command: list[str] = json.loads(bracket + rest)
    return command


def is_left_out(path: PurePath, patterns: Sequence[str]) -> bool:
    """Tell whether .dockerignore leaves the path out: its last match decides."""
    left_out = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if any(fnmatch(str(part), bare) for part in (path, *path.parents)):
            left_out = bare == pattern
    return left_out


def copy_context(source: str, target: Path) -> None:
    """Copy from the checkout what a build is sent of it."""
    patterns = (PROJECT / ".dockerignore").read_text().splitlines()

    def left_out(directory: str, names: list[str]) -> list[str]:
        parent = PurePath(directory).relative_to(PROJECT)
        return [name for name in names if is_left_out(parent / name, patterns)]

    if is_left_out(PurePath(source), patterns):
        raise BrokenImageError(f".dockerignore leaves {source} out")
    if (PROJECT / source).is_dir():
        shutil.copytree(PROJECT / source, target, ignore=left_out, dirs_exist_ok=True)
    else:
        shutil.copy(PROJECT / source, target)


class Image:
    """What the instructions have made so far; `root` is the stage at work.

    Stages that need a Node.js which is not there are skipped, and give nothing.
    """

    def __init__(self, scratch: Path, node: Path | None) -> None:
        self.node = node
        self.root = scratch / "root"
        self.workdir = self.root
        self.env: dict[str, str] = {}
        self.argv: dict[str, list[str]] = {}
        self._base_env = host_environment(scratch)
        self._stage = ""
        self._skipped: set[str] = set()

    def apply(self, name: str, arguments: str) -> None:
        """Carry one instruction out, if it is of a stage that is not skipped."""
        if name == "FROM":
            self._begin_stage(arguments)
        elif self._stage not in self._skipped:
            self._carry_out(name, arguments)

    def _carry_out(self, name: str, arguments: str) -> None:
        match name:
            case "WORKDIR":
                self.workdir = self._inside(arguments)
                self.workdir.mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(shlex.split(arguments))
            case "RUN":
                self._build(self._localize(arguments))
            case "ENV":
                key, _, value = self._localize(arguments).partition("=")
                self.env[key] = string.Template(value).substitute(self.env)
            case "ENTRYPOINT" | "CMD" | "HEALTHCHECK":
                self.argv[name] = exec_form(arguments)
            case "USER" | "EXPOSE" | "VOLUME":
                pass
            case _:
                raise BrokenImageError(f"{name} is not known to this script")

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in the image to its end, its output captured."""
        return subprocess.run(
            argv,
            cwd=self.workdir,
            env=self.env,
            timeout=STEP_TIMEOUT_S,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _begin_stage(self, arguments: str) -> None:
        if self.root.exists():
            self.root.rename(self.root.with_name(self._stage))
        base, _, self._stage = arguments.partition(" AS ")
        self.workdir = self.root
        self.workdir.mkdir()
        self.env = dict(self._base_env)
        if not base.startswith("node:"):
            return
        if self.node is None:
            self._skipped.add(self._stage)
        else:
            self.env["PATH"] = f"{self.node.parent}:{self.env['PATH']}"

    def _build(self, command: str) -> None:
        done = self.run(["sh", "-c", command])
        if done.returncode:
            raise BrokenImageError(f"{command}\n{done.stdout}")

    def _copy(self, arguments: list[str]) -> None:
        *sources, destination = arguments
        target = self._inside(destination)
        if not sources[0].startswith("--from="):
            for source in sources:
                copy_context(source, target)
            return
        stage = sources.pop(0).removeprefix("--from=")
        if stage in self._skipped:
            return
        for source in sources:
            found = self.root.with_name(stage) / source.lstrip("/")
            shutil.copytree(found, target, symlinks=True)

    def _inside(self, path: str) -> Path:
        return self.root / path[1:] if path.startswith("/") else self.workdir / path

    def _localize(self, command: str) -> str:
        return re.sub(r"(?<![\w.])/app\b", f"{self.root}/app", command)


def host_environment(scratch: Path) -> dict[str, str]:
    """Give the base image's environment: a bare `python` first on the path."""
    bare_python = f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
    (scratch / "bin").mkdir()
    (scratch / "bin/python").symlink_to(Path(sys.base_prefix, bare_python))
    of_this_venv = ("VIRTUAL_ENV", "PYTHON", "COPILOT_USAGE_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(of_this_venv)}
    return env | {"PATH": f"{scratch}/bin:/usr/bin:/bin"}


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


def exercise(image: Image) -> None:
    """Start what was installed on a free port, ask it for all it has, stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with started(image, port) as server:
        await_health(image, port, server)
        ask_dashboard(f"http://127.0.0.1:{port}", is_built=image.node is not None)
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


def ask_dashboard(url: str, *, is_built: bool) -> None:
    """Ask for the page and its assets; where none was built, for the word on that."""
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
        [PROJECT / "scripts" / "has-node"],
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
    sys.stdout.write("Dockerfile: no Node.js here, so its stage is left out\n")
    return None


def main() -> None:
    """Replay the Dockerfile and say in one line how it went."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            image = Image(Path(scratch), find_node())
            for name, arguments in instructions((PROJECT / "Dockerfile").read_text()):
                image.apply(name, arguments)
            exercise(image)
        except (BrokenImageError, OSError, subprocess.TimeoutExpired) as error:
            sys.exit(f"Dockerfile: {error}")
    sys.stdout.write(
        f"Dockerfile: installs, starts and stops ({time.monotonic() - began_s:.0f} s)\n"
    )


if __name__ == "__main__":
    main()
