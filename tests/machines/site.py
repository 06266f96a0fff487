"""Several service machines: one database, one Redis, one balancer before them."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientSession

from tests.faults.period_kills import children_of, end, stop
from tests.isolation.reading import lines
from tests.launcher import Launcher, Service
from tests.machines.balancer import Balancer
from tests.running import until

SETTINGS: Final = {
    "auth__session_secret": "a secret that all machines have, of 32 characters",
    "limits__trusted_proxies": "127.0.0.1",
    "limits__queue_wait_s": 60.0,
    "logging__access": "false",
    "health__require_snapshot": "true",
    # Three times what the balancer needs to notice; its retries cover a slow machine.
    "server__drain_s": 0.5,
    "server__shutdown_grace_s": 60.0,
    "storage__timeout_s": 60.0,
    "upstream__timeout_s": 60.0,
    "upstream__deadline_s": 300.0,
    "webhooks__allow_private": "true",
    "vehicles__requests_per_s": 0.0,
    "vehicles__deadline_s": 60.0,
}

AHEAD_S: Final = (-2.5, 0.0, 2.5)
"""Differences of the machines' clocks: as bad as those without NTP become soon."""


class Machine:
    """A machine: a service of one or more workers, always at the same port."""

    def __init__(self, number: int, workers: int, service: Service) -> None:
        self.number = number
        self.workers = workers
        self.service = service
        self._paused: list[int] = []

    @property
    def port(self) -> int:
        """The port of the service."""
        return self.service.port

    def start(self) -> None:
        """Start the service; it listens some time later."""
        self.service.start("--workers", str(self.workers))

    async def stop(self) -> None:
        """Stop the service in order, which it must manage in its time."""
        assert await self.service.stop() == 0
        assert self.events("service.shutdown_forced") == []

    def kill(self) -> None:
        """End all processes at once, as a loss of power does."""
        self.resume()
        # A worker that starts meanwhile would keep the port.
        stop(self.service.process_id)
        for each in children_of(self.service.process_id):
            end(each)
        self.service.kill()

    def pause(self) -> None:
        """Stop the execution of all processes, as a frozen virtual machine does."""
        assert self.service.process_id is not None
        self._paused = [self.service.process_id]
        self._paused += children_of(self.service.process_id)
        for each in self._paused:
            stop(each)

    def resume(self) -> None:
        """Let a paused machine go on."""
        paused, self._paused = self._paused, []
        for each in paused:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of one event in its log, since its first start."""
        return lines(self.service, name)

    async def until_up(self) -> None:
        """Wait until the service answers."""
        await self.service.until_up()


class Site:
    """Machines and their balancer."""

    def __init__(self, machines: Sequence[Machine], balancer: Balancer) -> None:
        self.machines = machines
        self.balancer = balancer

    async def start(self) -> None:
        """Start all machines at once, and wait until the balancer uses them."""
        for each in self.machines:
            each.start()
        for each in self.machines:
            await each.until_up()
        self.balancer.start()
        await self.until_serving(*self.machines)

    async def until_serving(self, *machines: Machine) -> None:
        """Wait until the balancer sends requests to these machines."""
        numbers = [each.number for each in machines]
        await until(lambda: self.balancer.serves(*numbers))

    async def restart(self, machine: Machine) -> None:
        """Replace the service of a machine in order, as an upgrade does."""
        await machine.stop()
        machine.start()
        await machine.until_up()
        await self.until_serving(machine)

    def close(self) -> None:
        """End everything."""
        self.balancer.stop()
        for each in self.machines:
            if each.service.process_id is not None:
                each.kill()

    async def ask_all(self, path: str) -> list[tuple[int, str | None, bytes]]:
        """Return status, ETag and body of one answer of each machine."""
        answers = []
        for each in self.machines:
            url = f"http://127.0.0.1:{each.port}{path}"
            async with ClientSession() as session, session.get(url) as answer:
                etag = answer.headers.get("ETag")
                answers.append((answer.status, etag, await answer.read()))
        return answers


MakeSite = Callable[..., Site]


def make_machines(
    launcher: Launcher, folder: Path, workers: Sequence[int], **settings: object
) -> list[Machine]:
    """Return machines that are not started yet."""
    chosen = {**SETTINGS, **settings}
    machines = []
    for number, each in enumerate(workers, 1):
        service = Service(launcher, folder / f"machine-{number}.log", **chosen)
        service.set_clock(AHEAD_S[number - 1])
        machines.append(Machine(number, each, service))
    return machines
