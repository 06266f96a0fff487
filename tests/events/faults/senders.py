"""Applications that send events until they are accepted, and a check of the result."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import ClientError, ClientSession
from aiohttp.test_utils import TestClient
from yarl import URL

from service.instants import read_instant
from tests.events.conftest import event
from tests.patience import GIVE_UP_S
from tests.running import until

PAGE: Final = 1_000
SEND_AGAIN_S: Final = 0.05
MAX_BATCH: Final = 20
TIMESTAMPS: Final = [f"2021-01-01 09:15:2{second}.5" for second in range(5)]
"""Few timestamps, so that arrival decides the order in most cases."""

Event = dict[str, Any]


class Sender:
    """A client that sends one request after another, each until the answer is 202.

    Every event has its own id, also when it is sent again.
    """

    def __init__(self, name: str, session: ClientSession, seed: int) -> None:
        self.sent: list[Event] = []
        self.answers = 0
        self.refusals = 0
        self.retried = 0
        self.found_stored = 0
        self.is_done = False
        self._name = name
        self._session = session
        self._chance = random.Random(f"{seed} {name}")

    async def run(self) -> None:
        """Send until `is_done` is set."""
        while not self.is_done:
            events = self._make()
            self.sent += events
            await self._deliver(events)

    def _make(self) -> list[Event]:
        size = self._chance.choice([1, 1, self._chance.randint(2, MAX_BATCH)])
        begin = len(self.sent)
        return [
            event(
                id=f"{self._name}-{number}",
                session_id=f"session {self._chance.randint(1, 3)}",
                data={"host": "www.example.com", "path": f"/{number}"},
                timestamp=self._chance.choice(TIMESTAMPS),
            )
            for number in range(begin, begin + size)
        ]

    async def _deliver(self, events: list[Event]) -> None:
        tries = 1
        while (receipt := await self._post(events)) is None:
            tries += 1
            await asyncio.sleep(SEND_AGAIN_S)
        self.answers += 1
        results = receipt["results"]
        assert [each["id"] for each in results] == [each["id"] for each in events]
        statuses = {each["status"] for each in results}
        # A request without an answer was stored completely, or not at all.
        assert statuses in ({"accepted"}, {"duplicate"}), receipt
        if statuses == {"duplicate"}:
            assert tries > 1, receipt
            self.found_stored += 1
        self.retried += tries > 1

    async def _post(self, events: list[Event]) -> Any:
        """Return the receipt, or None if the events have to be sent again."""
        body = events if len(events) > 1 else events[0]
        try:
            async with self._session.post("/events", json=body) as response:
                answer = await response.json(content_type=None)
        except (ClientError, OSError):
            return None
        if response.status == 202:
            return answer
        assert response.status == 503, answer
        assert answer["code"] == "storage_unavailable", answer
        assert int(response.headers["Retry-After"]) >= 1
        self.refusals += 1
        return None


class Senders(list[Sender]):
    """Several senders."""

    @property
    def answers(self) -> int:
        """Requests answered 202 so far."""
        return sum(each.answers for each in self)

    @property
    def refusals(self) -> int:
        """Requests answered 503 so far."""
        return sum(each.refusals for each in self)

    async def until_answered(self, more: int) -> None:
        """Wait for this number of further answers 202."""
        enough = self.answers + more
        await until(lambda: self.answers >= enough)

    async def until_refused(self, more: int) -> None:
        """Wait for this number of further answers 503."""
        enough = self.refusals + more
        await until(lambda: self.refusals >= enough)

    @property
    def summary(self) -> str:
        """Totals of requests and events, for the test's output."""
        retried = sum(each.retried for each in self)
        found_stored = sum(each.found_stored for each in self)
        events = sum(len(each.sent) for each in self)
        return (
            f"{events} events in {self.answers} requests: {retried} sent again, of "
            f"which {found_stored} were stored already; {self.refusals} answers 503"
        )

    async def check(self, session: ClientSession) -> None:
        """Fail unless all sent events are stored once, unchanged and in order."""
        stored = await all_events(session)
        sent = {each["id"]: each for sender in self for each in sender.sent}
        assert len(stored) == len(sent)
        assert {each["id"]: as_sent(each) for each in stored} == sent
        order = [
            (read_instant(each["timestamp"]), each["received_at"]) for each in stored
        ]
        assert order == sorted(order)
        arrival = {each["id"]: each["received_at"] for each in stored}
        for sender in self:
            arrivals = [arrival[each["id"]] for each in sender.sent]
            assert arrivals == sorted(arrivals)


@asynccontextmanager
async def calling(port: int, key: str) -> AsyncIterator[ClientSession]:
    """Open a session with a key."""
    headers = {"Authorization": f"Bearer {key}"}
    async with ClientSession(f"http://127.0.0.1:{port}", headers=headers) as session:
        yield session


@asynccontextmanager
async def sending(
    *sessions: ClientSession, seed: int = 0, count: int = 8
) -> AsyncIterator[Senders]:
    """Send from several clients; at the end every request has been answered 202."""
    senders = Senders(
        Sender(f"sender {number}", sessions[number % len(sessions)], seed)
        for number in range(count)
    )
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(sender.run()) for sender in senders]
        yield senders
        for sender in senders:
            sender.is_done = True
        async with asyncio.timeout(GIVE_UP_S):
            await asyncio.gather(*running)
    print(senders.summary)  # noqa: T201 - for the output of the test


async def all_events(session: ClientSession | TestClient[Any, Any]) -> list[Event]:
    """Return all events of the key's application, page by page."""
    found: list[Event] = []
    query: Any = {"limit": str(PAGE)}
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            async with session.get("/events", params=query) as response:
                assert response.status == 200, await response.text()
                found += (await response.json())["events"]
            if "next" not in response.links:
                return found
            query = URL(response.links["next"]["url"]).query


def as_sent(stored: Event) -> Event:
    """Return a stored event without the fields that the service adds."""
    return {
        name: stored[name]
        for name in stored
        if name not in {"received_at", "application"}
    }
