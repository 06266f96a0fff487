"""Replay the Dockerfile without Docker: install, start, ask its health, stop.

Every stage gets an empty directory that stands for the image's file system; its
commands may name paths under /app only. What is installed is then started by the
image's own entry point, asked by its own health check, and must stop on SIGTERM with
status 0. A step that fails or overruns its time ends the script with status 1.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePath

PROJECT = Path(__file__).resolve().parent.parent
IMAGE_PORT = 8000
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
        shutil.copytree(PROJECT / source, target, ignore=left_out)
    else:
        shutil.copy(PROJECT / source, target)


class Image:
    """What the instructions have made so far; `root` is the stage at work."""

    def __init__(self, scratch: Path) -> None:
        self.root = scratch / "root"
        self.workdir = self.root
        self.env: dict[str, str] = {}
        self.argv: dict[str, list[str]] = {}
        self._base_env = host_environment(scratch)
        self._stage = ""

    def apply(self, name: str, arguments: str) -> None:
        """Carry one instruction out."""
        match name:
            case "FROM":
                self._begin_stage(arguments)
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
            case "USER" | "EXPOSE":
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
        self._stage = arguments.rpartition(" AS ")[2]
        self.workdir = self.root
        self.workdir.mkdir()
        self.env = dict(self._base_env)

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
        stage = self.root.with_name(sources.pop(0).removeprefix("--from="))
        for source in sources:
            shutil.copytree(stage / source.lstrip("/"), target, symlinks=True)

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
    """Start what was installed on a free port, ask its health, stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with started(image, port) as server:
        await_health(image, port, server)
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


def main() -> None:
    """Replay the Dockerfile and say in one line how it went."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        image = Image(Path(scratch))
        try:
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
