"""A PostgreSQL server that a test can stop and start."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import asyncpg

from tests.leftovers import processes, wait_for_end
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import LOOK_AGAIN_S

USER: Final = "postgres"
INSTALLED: Final = Path("/usr/lib/postgresql")
"""The folder of Debian, with a folder for each version; it is not on the PATH."""


class Cluster:
    """A server with its own folder and a fixed port, not started yet."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._options = options
        self.url = f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"
        # Not a folder of pytest, which the server's user cannot open.
        self._folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(self._folder, USER, USER)

    async def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        if not (self._folder / "data").exists():
            self._make()
        place = [f"-p{self.port}", "-h127.0.0.1", f"-k{self._folder}"]
        self._process = self._run("postgres", *place, *self._options)
        async with asyncio.timeout(GIVE_UP_S):
            while not await self._is_up():  # noqa: ASYNC110 - it sets no event of ours
                await asyncio.sleep(LOOK_AGAIN_S)

    def stop(self) -> None:
        """Stop the server at once, with all connections and transactions."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """Kill the server, and wait until its own processes have noticed that."""
        assert self._process is not None
        own = [each for each in processes() if each.parent == self._process.pid]
        self._end(signal.SIGKILL)
        for each in own:
            wait_for_end(each.pid)

    def _end(self, sig: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(sig)
            self._process.wait(GIVE_UP_S)
            self._process = None

    def remove(self) -> None:
        """Stop the server, and delete its folder."""
        self.stop()
        shutil.rmtree(self._folder)

    async def execute(self, *statements: str) -> None:
        """Execute statements."""
        connection = await asyncpg.connect(self.url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            await self.execute("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    def _make(self) -> None:
        options = [*("--auth", "trust"), *("--username", USER), "--no-sync"]
        making = self._run("initdb", *options, "--encoding=UTF8", "--locale=C")
        assert making.wait(GIVE_UP_S) == 0, (self._folder / "log").read_text()

    def _run(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        """Run a program as the server's user: it refuses to run as root."""
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            group = pwd.getpwnam(USER).pw_gid
            user = {"user": USER, "group": group, "extra_groups": []}
        data = self._folder / "data"
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                [_path_of(program), "-D", str(data), *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                **user,
            )


def _path_of(program: str) -> str:
    found = sorted(INSTALLED.glob(f"*/bin/{program}"))
    path = str(found[-1]) if found else shutil.which(program)
    assert path, f"{program} is not installed: apt-get install postgresql"
    return path
