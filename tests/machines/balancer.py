"""HAProxy with the file of `deploy/`, before services on ports of this machine."""

import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from csv import DictReader
from pathlib import Path
from typing import Final

from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import LOOK_AGAIN_S, ROOT

FILE: Final = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
HAPROXY: Final = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
TLS: Final = "bind :443 ssl crt /etc/haproxy/usage.example.com.pem alpn h2,http/1.1"
REDIRECT: Final = "http-request redirect scheme https code 308 unless { ssl_fc }"
CHECKS: Final = "check inter 1s fastinter 500ms downinter 1s"
QUICK_CHECKS: Final = "check inter 100ms fastinter 50ms downinter 100ms"
BALANCED: Final = "machines"
MAX_BYTES: Final = 65_536


class Balancer:
    """One HAProxy; its clients use HTTP unless the file keeps its TLS."""

    def __init__(
        self,
        folder: Path,
        ports: Sequence[int],
        replacements: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.tls_port = 0
        self.operators_port = free_port()
        # Not in `folder`: the path of a Unix socket has at most 107 bytes.
        self._sockets = Path(tempfile.mkdtemp(prefix="haproxy-"))
        self._socket = self._sockets / "admin.sock"
        self._folder = folder
        self.log = folder / "haproxy.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.file = folder / "haproxy.cfg"
        own = {TLS: "", REDIRECT: "", CHECKS: QUICK_CHECKS, **(replacements or {})}
        self.file.write_text(self._adapted(ports, own))

    def _adapted(self, ports: Sequence[int], replacements: Mapping[str, str]) -> str:
        """Return the file with other addresses, and without rights of root."""
        text = FILE.read_text(encoding="utf-8")
        for old, new in {
            "maxconn 20000": "maxconn 2000",  # this machine may open fewer files
            "log /dev/log local0": "log stdout format raw local0",
            "chroot /var/lib/haproxy\n": "\n",
            "user haproxy\n": "\n",
            "group haproxy\n": "\n",
            "/run/haproxy/admin.sock": str(self._socket),
            "bind :80\n": f"bind 127.0.0.1:{self.port}\n",
            "bind 127.0.0.1:8404": f"bind 127.0.0.1:{self.operators_port}",
            **replacements,
        }.items():
            assert old in text, old
            text = text.replace(old, new)
        return re.sub(
            r"(server machine-(\d)) \S+",
            lambda found: f"{found[1]} 127.0.0.1:{ports[int(found[2]) - 1]}",
            text,
        )

    def check(self) -> str:
        """Return what HAProxy says of the file, which must be valid."""
        command = [str(HAPROXY), "-c", "-f", str(self.file)]
        checked = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
        return checked.stdout + checked.stderr

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [str(HAPROXY), "-db", "-f", str(self.file)], stdout=log, stderr=log
            )
        ends_at = time.monotonic() + GIVE_UP_S
        while not self._listens():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends_at
            time.sleep(LOOK_AGAIN_S)

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(GIVE_UP_S)
            self._process = None
        shutil.rmtree(self._sockets, ignore_errors=True)

    def state(self) -> dict[str, dict[str, str]]:
        """Return the statistics of each machine, and of `BACKEND`."""
        lines = self.command(f"show stat {BALANCED} -1 -1")
        rows = DictReader(lines.removeprefix("# ").splitlines())
        return {row["svname"]: row for row in rows if row["pxname"] == BALANCED}

    def serves(self, *numbers: int) -> bool:
        """Return whether it sends requests to these machines."""
        state = self.state()
        return all(state[f"machine-{each}"]["status"] == "UP" for each in numbers)

    def command(self, text: str) -> str:
        """Return the answer to a command of its runtime interface."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(GIVE_UP_S)
            connection.connect(str(self._socket))
            connection.sendall(f"{text}\n".encode())
            parts = iter(lambda: connection.recv(MAX_BYTES), b"")
            return b"".join(parts).decode()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            is_open = probe.connect_ex(("127.0.0.1", self.port)) == 0
        # It gets its name after the ports are open.
        return is_open and self._socket.exists()
