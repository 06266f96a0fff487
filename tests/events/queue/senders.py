"""Clients that send events to collectors, and the check of what was stored.

Each client sends one request after another, each until the answer is 202. It chooses a
collector at random for each attempt, as behind a load balancer.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, NamedTuple

from aiohttp import ClientError, ClientSession, ClientTimeout
from yarl import URL

from tests.events.conftest import event
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, until

PAGE: Final = 1_000
MAX_BATCH: Final = 20
PAUSE_S: Final = 0.02
SEND_AGAIN_S: Final = 0.1
PATIENCE: Final = ClientTimeout(total=15.0, sock_connect=5.0)
"""A client that gives up does not know whether its events were accepted."""
TIMESTAMPS: Final = [f"2021-01-01 09:15:2{second}.5" for second in range(5)]
"""Later events often have earlier times, so that only the arrival gives the order."""
TEMPORARY: Final = frozenset({502, 503, 504})


class Request(NamedTuple):
    """A request that was acknowledged: when it was first sent, and when answered."""

    begin: float
    end: float


class Application:
    """An application with a key, the times of its requests, and its place in the feed.

    `requests` has the request of each event that was acknowledged, by its id.
    """

    def __init__(self, name: str, key: str) -> None:
        self.name = name
        self.headers = {"Authorization": f"Bearer {key}"}
        self.requests: dict[str, Request] = {}
        self.stored: set[str] = set()
        self._next = "/events?" + f"order=arrival&limit={PAGE}"
        self._latest_begin = 0.0
        self._latest_id = ""

    async def read_on(self, session: ClientSession) -> None:
        """Read the feed from where the last call ended; fail for a bad order."""
        while True:
            url = URL(self._next, encoded=True)
            async with session.get(url, headers=self.headers) as answer:
                assert answer.status == 200, await answer.text()
                found = (await answer.json())["events"]
                following = answer.links.get("next")
            for each in found:
                self._note(each["id"])
            if following is not None:
                self._next = str(URL(str(following["url"])).relative())
            if len(found) < PAGE:
                return

    def _note(self, event_id: str) -> None:
        assert event_id not in self.stored, f"{event_id} is stored twice"
        assert event_id in self.requests, f"{event_id} was never acknowledged"
        self.stored.add(event_id)
        request = self.requests[event_id]
        # An event whose request was answered before another one began is before it.
        assert request.end >= self._latest_begin, (
            f"{event_id} is stored after {self._latest_id}, which was sent later"
        )
        if request.begin > self._latest_begin:
            self._latest_begin, self._latest_id = request.begin, event_id


class Sender:
    """One client of an application."""

    def __init__(
        self, name: str, application: Application, sessions: Sequence[ClientSession]
    ) -> None:
        self.answers = 0
        self.attempts = 0
        self._name = name
        self._application = application
        self._sessions = sessions
        # What is sent needs no seed: the faults are what is repeated.
        self._chance = random.Random(name)
        self._numbers = itertools.count()

    async def send(self) -> None:
        """Send a request until it is acknowledged."""
        events = list(self._make())
        begin = time.monotonic()
        while not await self._post(events):  # noqa: ASYNC110
            await asyncio.sleep(SEND_AGAIN_S)
        request = Request(begin, time.monotonic())
        self.answers += 1
        self._application.requests.update((each["id"], request) for each in events)

    def _make(self) -> Iterator[dict[str, Any]]:
        size = self._chance.choice([1, 1, self._chance.randint(2, MAX_BATCH)])
        for _ in range(size):
            number = next(self._numbers)
            yield event(
                id=f"{self._name}-{number}",
                data={"host": "www.example.com", "path": f"/{number}"},
                timestamp=self._chance.choice(TIMESTAMPS),
            )

    async def _post(self, events: list[dict[str, Any]]) -> bool:
        self.attempts += 1
        session = self._chance.choice(self._sessions)
        try:
            async with session.post(
                "/events",
                json=events,
                headers=self._application.headers,
                timeout=PATIENCE,
            ) as answer:
                body = await answer.json(content_type=None)
        except (ClientError, OSError, TimeoutError):
            return False
        if answer.status in TEMPORARY:
            return False
        assert answer.status == 202, (answer.status, body)
        assert body["failed"] == 0, body
        return True


class Senders(list[Sender]):
    """Clients that can all be paused."""

    def __init__(self, senders: Iterator[Sender]) -> None:
        super().__init__(senders)
        self._may_send = asyncio.Event()
        self._idle = 0

    @property
    def answers(self) -> int:
        """Requests that were acknowledged."""
        return sum(each.answers for each in self)

    async def until_answered(self, each_more: int) -> None:
        """Wait until every client has this number of further acknowledgements."""
        wanted = [each.answers + each_more for each in self]
        await until(
            lambda: all(
                each.answers >= enough
                for each, enough in zip(self, wanted, strict=True)
            )
        )

    async def run(self, sender: Sender) -> None:
        """Send continuously, unless paused."""
        while True:
            if not self._may_send.is_set():
                self._idle += 1
                await self._may_send.wait()
                self._idle -= 1
            await sender.send()
            await asyncio.sleep(PAUSE_S)

    def resume(self) -> None:
        """Let all send."""
        self._may_send.set()

    async def pause(self) -> None:
        """Let all finish their requests, which are acknowledged then."""
        self._may_send.clear()
        await until(lambda: self._idle == len(self))


@asynccontextmanager
async def sending(
    applications: Sequence[Application], ports: Sequence[int], count: int
) -> AsyncIterator[Senders]:
    """Send from so many clients, which take turns among the applications."""
    async with AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{port}"))
            for port in ports
        ]
        senders = Senders(
            Sender(f"client{n}", applications[n % len(applications)], sessions)
            for n in range(count)
        )
        tasks = [asyncio.create_task(senders.run(each)) for each in senders]
        try:
            yield senders
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            failures = [each for each in ended if isinstance(each, Exception)]
            assert failures == []


async def check_stored(applications: Sequence[Application], port: int) -> None:
    """Wait until all acknowledged events are stored; fail for one that is not.

    Fails also for one that is stored twice, and for one out of order.
    """
    async with ClientSession(f"http://127.0.0.1:{port}") as session:
        for each in applications:
            try:
                async with asyncio.timeout(GIVE_UP_S):
                    while len(each.stored) < len(each.requests):
                        await each.read_on(session)
                        await asyncio.sleep(LOOK_AGAIN_S)
            except TimeoutError:
                lost = sorted(each.requests.keys() - each.stored)
                raise AssertionError(
                    f"{len(lost)} events of {each.name} were lost: {lost[:20]}"
                ) from None
