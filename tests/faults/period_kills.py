"""Services that keep periods and are killed at random times; then all must be right.

What is generated depends on a seed alone, which the tests print. `KILLS_SEED` repeats a
run, as far as the times at which processes run permit.
"""

import asyncio
import os
import random
import select
import signal
from collections import Counter
from contextlib import ExitStack, suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.sandbox.server import Sandbox
from service.storage.database import Database
from service.usage.periods.changes import unpack_page
from service.usage.periods.model import Change, ChangeKind, split_digests
from service.usage.periods.statements.sealing import Sealing
from service.usage.periods.statements.verification import Result, Verification
from service.usage.snapshots.kept import decode_chunk
from tests.conftest import message
from tests.launcher import Service
from tests.patience import GIVE_UP_S

SEED: Final = int(os.environ.get("KILLS_SEED") or random.SystemRandom().getrandbits(32))
MAX_WAIT_S: Final = 0.15
"""Maximum time from an answer to a kill: the keeping of its snapshot takes less."""
MAX_ANSWERS: Final = 12
NEW_PERIOD_SHARE: Final = 0.04
MAX_MESSAGES: Final = 40
REVISIONS: Final = (
    "SELECT * FROM usage_revisions WHERE period_number = :number "
    "AND revision <= :last ORDER BY revision"
)
UNPUBLISHED: Final = (
    "SELECT count(DISTINCT attempt) FROM usage_changes WHERE period_number = :n "
    "AND attempt NOT IN (SELECT attempt FROM usage_revisions)"
)
UNSEALED: Final = (
    "SELECT count(*) FROM usage_periods WHERE number = :n AND status = 'closed' "
    "AND number NOT IN (SELECT period_number FROM usage_statements)"
)
ONE_STATE: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"

Sent = dict[str, Any]


class History:
    """The messages of an upstream, which change at random and form periods."""

    def __init__(self, chosen: random.Random) -> None:
        self._chosen = chosen
        self._made = 0
        self.messages: list[Sent] = []
        self.begin()

    def begin(self) -> None:
        """Begin a new period."""
        self.messages = [self._make() for _ in range(self._chosen.randint(1, 5))]

    def change(self) -> None:
        """Add, remove and change messages, or begin a new period."""
        if self._chosen.random() < NEW_PERIOD_SHARE:
            self.begin()
            return
        first, *others = self.messages
        kept = [each for each in others if self._chosen.random() > 0.1]
        texts = [
            {**each, "text": self._write()} if self._chosen.random() < 0.1 else each
            for each in kept[:MAX_MESSAGES]
        ]
        added = [self._make() for _ in range(self._chosen.randint(0, 4))]
        # The first message stays: without a common one, it would be another period.
        self.messages = [first, *texts, *added]

    def _make(self) -> Sent:
        self._made += 1
        at = f"2024-04-01T{self._made // 3600:02}:{self._made // 60 % 60:02}"
        return message(
            self._made, self._write(), timestamp=f"{at}:{self._made % 60:02}Z"
        )

    def _write(self) -> str:
        return "word " * self._chosen.randint(1, 30)


class Kills:
    """A service of some workers, which is killed and started again."""

    def __init__(
        self, service: Service, database: Database, sandbox: Sandbox, seed: int
    ) -> None:
        self._chosen = random.Random(seed)
        self._history = History(self._chosen)
        self._service = service
        self._database = database
        self._sandbox = sandbox
        self._frozen: dict[int, str] = {}
        self.unfinished: Counter[str] = Counter()
        """What the checks have found unfinished after kills."""

    async def run(self, kills: int) -> None:
        """Kill the service so many times, and check what is kept after each."""
        self._service.start()
        for _ in range(kills):
            await self._service.until_up()
            await self._refresh_until_killed()
            await self._check()
        await self._service.until_up()
        await self._check_end()
        self._kill_all()
        show(**self.unfinished)

    async def _refresh_until_killed(self) -> None:
        answers = asyncio.Semaphore(0)
        asking = [
            asyncio.create_task(self._ask(answers))
            for _ in range(self._chosen.randint(1, 3))
        ]
        async with asyncio.timeout(GIVE_UP_S):
            for _ in range(self._chosen.randint(0, MAX_ANSWERS)):
                await answers.acquire()
        # At any time of a refresh, a publication or a closing.
        await asyncio.sleep(self._chosen.random() * MAX_WAIT_S)
        workers = children_of(self._service.process_id)
        if workers and self._chosen.random() < 0.5:
            os.kill(self._chosen.choice(workers), signal.SIGKILL)
        else:
            self._kill_all()
            self._service.start()
        for each in asking:
            each.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended

    async def _ask(self, answers: asyncio.Semaphore) -> None:
        """Let the service refresh again and again, until it is cancelled.

        `answers` is released after each request, also after one that has failed.
        """
        async with ClientSession(timeout=ClientTimeout(total=GIVE_UP_S)) as session:
            while True:
                self._history.change()
                self._sandbox.set_messages(self._history.messages)
                with suppress(ClientError):
                    await self._get(session, "/usage")
                answers.release()
                # The keeping skips snapshots if refreshes do not wait for it.
                with suppress(ClientError):
                    await self._get(session, "/usage/periods")

    async def _get(self, session: ClientSession, path: str) -> None:
        async with session.get(self._url(path)) as answer:
            await answer.read()

    def _kill_all(self) -> None:
        # A worker that starts meanwhile would keep the port.
        stop(self._service.process_id)
        for each in children_of(self._service.process_id):
            end(each)
        self._service.kill()

    async def _check(self) -> None:
        """Fail unless all that is kept agrees with itself, and closed periods stay."""
        async with self._database.reading() as connection:
            if not self._database.is_sqlite:
                # Other workers may publish meanwhile.
                await connection.execute(text(ONE_STATE))
            rows = (await connection.execute(text("SELECT * FROM usage_periods"))).all()
            for row in rows:
                await check_period(connection, row)
                self.unfinished.update(await unfinished(connection, row))
                if row.status == "closed":
                    digest = await fingerprint(connection, row)
                    assert self._frozen.setdefault(row.number, digest) == digest

    async def _check_end(self) -> None:
        """Fail unless the last snapshot is kept in the end."""
        async with ClientSession() as session, asyncio.timeout(GIVE_UP_S):
            while True:
                async with session.get(self._url("/usage")) as answer:
                    usage = (await answer.json())["usage"]
                async with session.get(self._url("/usage/periods")) as answer:
                    periods = (await answer.json())["periods"]
                total = sum(round(100 * each["credits_used"]) for each in usage)
                found = [
                    (each["messages"], round(100 * each["credits_used"]))
                    for each in periods[:1]
                ]
                if found == [(len(usage), total)]:
                    break
        await self._check()
        await self._check_statements()

    async def _check_statements(self) -> None:
        """Fail unless all closed periods have digests, which are verified."""
        # The service may be sealing them too.
        await Sealing(self._database).seal()
        verification = Verification(self._database)
        await verification.open()
        results = [each async for each in verification.run(lambda: None)]
        assert {each.result for each in results} <= {Result.VERIFIED}, results

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._service.port}{path}"


def stop(process_id: int | None) -> None:
    """Stop a process, and return when it runs no more, as when it has ended before."""
    assert process_id is not None
    os.kill(process_id, signal.SIGSTOP)
    while state_of(process_id) not in {"T", "Z"}:
        os.sched_yield()


def state_of(process_id: int) -> str:
    """Return the state of a process: `R` if it runs, `T` stopped, `Z` ended."""
    stat = Path(f"/proc/{process_id}/stat").read_text()
    return stat.rpartition(") ")[2][0]


def end(process_id: int) -> None:
    """Kill a process, and return when it has closed its sockets."""
    with suppress(ProcessLookupError), ExitStack() as stack:
        handle = os.pidfd_open(process_id)
        stack.callback(os.close, handle)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [])


def children_of(process_id: int | None) -> list[int]:
    """Return the ids of the workers of a process."""
    assert process_id is not None
    path = Path(f"/proc/{process_id}/task/{process_id}/children")
    return [int(each) for each in path.read_text().split()]


async def fingerprint(connection: AsyncConnection, period: Any) -> str:
    """Return a digest of all rows of a closed period, without its adjustments."""
    digest = sha256(repr(tuple(map(_plain, period))).encode())
    listed = split_digests(bytes(period.chunks))
    contents = await _contents_of(connection, period)
    digest.update(b"".join(contents[each] for each in listed))
    for each in await _revisions_of(connection, period):
        digest.update(repr(tuple(each)).encode())
        changes = await changes_of(connection, period.number, each.attempt)
        digest.update(repr(changes).encode())
    return digest.hexdigest()


def _plain(value: object) -> object:
    return bytes(value) if isinstance(value, memoryview) else value


async def unfinished(connection: AsyncConnection, period: Any) -> dict[str, int]:
    """Count what was written or is to be removed, and whether a digest is missing.

    Another worker may be doing it.
    """
    contents = await _contents_of(connection, period)
    listed = {*split_digests(bytes(period.chunks))}
    number = {"n": period.number}
    return {
        "attempts": await connection.scalar(text(UNPUBLISHED), number) or 0,
        "unlisted_chunks": len(contents.keys() - listed),
        "unsealed": await connection.scalar(text(UNSEALED), number) or 0,
    }


async def check_period(connection: AsyncConnection, period: Any) -> None:
    """Fail unless the changes of a period explain its totals and its messages."""
    revisions = await _revisions_of(connection, period)
    assert [each.revision for each in revisions] == list(range(1, len(revisions) + 1))
    assert revisions[0].hundredths_before == 0
    for one, following in pairwise(revisions):
        assert one.hundredths_after == following.hundredths_before
    assert revisions[-1].hundredths_after == period.hundredths
    messages: Counter[int] = Counter()
    for each in revisions:
        changes = await changes_of(connection, period.number, each.attempt)
        total = sum(change.after - change.before for change in changes)
        assert total == each.hundredths_after - each.hundredths_before
        for change in changes:
            messages[change.message_id] += _added(change)
    kept = await _kept_ids(connection, period)
    assert +messages == kept
    assert min(messages.values()) >= 0
    assert kept.total() == period.messages


def _added(change: Change) -> int:
    return {ChangeKind.ADDED: 1, ChangeKind.REMOVED: -1}.get(change.kind, 0)


async def _revisions_of(connection: AsyncConnection, period: Any) -> list[Any]:
    """Return the revisions of a period, without its adjustments."""
    rows = await connection.execute(
        text(REVISIONS), {"number": period.number, "last": period.revision}
    )
    return list(rows)


async def changes_of(
    connection: AsyncConnection, number: int, attempt: str
) -> list[Change]:
    pages = await connection.scalars(
        text(
            "SELECT content FROM usage_changes WHERE period_number = :n "
            "AND attempt = :attempt ORDER BY page"
        ),
        {"n": number, "attempt": attempt},
    )
    return [change for page in pages for change in unpack_page(bytes(page))]


async def _kept_ids(connection: AsyncConnection, period: Any) -> Counter[int]:
    contents = await _contents_of(connection, period)
    ids: Counter[int] = Counter()
    for digest in split_digests(bytes(period.chunks)):
        packed = decode_chunk(contents[digest], digest).ids
        ids.update(memoryview(packed).cast("q").tolist())
    return ids


async def _contents_of(connection: AsyncConnection, period: Any) -> dict[bytes, bytes]:
    rows = await connection.execute(
        text("SELECT digest, content FROM usage_chunks WHERE period_number = :n"),
        {"n": period.number},
    )
    return {bytes(row.digest): bytes(row.content) for row in rows}


def show(**values: object) -> None:
    """Print what repeats a run, or what it has left unfinished."""
    shown = msgspec.json.encode({"KILLS_SEED": SEED, **values}).decode()
    print(f"\n{shown}", flush=True)  # noqa: T201
