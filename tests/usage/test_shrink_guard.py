"""Lists that suddenly lose most messages: served only after a second fetch agrees."""

from typing import Any, Final, NamedTuple

import pytest
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.usage.errors import ShrinkUnconfirmed
from service.usage.shrink_guard import ShrinkGuard, find_shrink_by_count
from service.usage.snapshots.shrink import Shrink
from tests.clock import Clock
from tests.conftest import Client, MakeClient, always, message
from tests.metric_samples import Read
from tests.patience import GIVE_UP_S

CONFIRM_S: Final = 30.0
TTL_S: Final = 60.0
CACHE: Final = {
    "ttl_s": TTL_S,
    "stale_if_error_s": 10_000.0,
    "pause_after_failure_s": 0.0,
    "stale_wait_s": GIVE_UP_S,
    "confirm_shrink_s": CONFIRM_S,
}
PERIOD: Final = [message(number) for number in range(110)]
HALF: Final = PERIOD[:55]
LESS: Final = PERIOD[:54]
LATER: Final = {"timestamp": "2024-06-01T00:00:00Z"}
NEW_PERIOD: Final = [{**message(number), **LATER} for number in range(500, 503)]
UNKNOWN: Final = [message(number) for number in range(500, 503)]


class Seen(NamedTuple):
    """The number of messages in an answer, and whether it is marked stale."""

    messages: int
    is_stale: bool


async def see(service: Client) -> Seen:
    response = await service.get("/usage")
    assert response.status == 200
    items = (await response.json())["usage"]
    return Seen(len(items), "detail=stale" in response.headers["Cache-Status"])


@pytest.fixture(params=[10**9, 1_000], ids=["inline", "handed over"])
async def service(
    client: MakeClient,
    sandbox: RunningSandbox,
    clock: Clock,
    request: pytest.FixtureRequest,
) -> Client:
    """A service that has answered 110 messages, which are old by now.

    Where the process worker has them, the inline worker reads the list that is left.
    """
    sandbox.sandbox.set_messages(PERIOD)
    service = await client(cache=CACHE, usage={"own_process_bytes": request.param})
    assert await see(service) == Seen(110, is_stale=False)
    clock.pass_s(TTL_S)
    return service


@pytest.mark.parametrize("left", [[], LESS, UNKNOWN], ids=["none", "less", "unknown"])
async def test_a_shrink_is_served_when_a_second_fetch_says_the_same(
    service: Client,
    sandbox: RunningSandbox,
    clock: Clock,
    log_entries: list[EventDict],
    left: list[dict[str, object]],
) -> None:
    """Until then the answer is the previous snapshot, marked stale, with a warning."""
    sandbox.sandbox.set_messages(left)
    for _ in range(3):
        assert await see(service) == Seen(110, is_stale=True)
        clock.pass_s((CONFIRM_S - 1) / 3)
    assert await see(service) == Seen(110, is_stale=True)
    clock.pass_s(1)
    assert await see(service) == Seen(len(left), is_stale=False)

    shrunk = [e for e in log_entries if e["event"] == "usage.messages.shrunk"]
    assert [each["result"] for each in shrunk] == ["unconfirmed"] * 4 + ["confirmed"]
    lost = len([each for each in PERIOD if each not in left])
    for each in shrunk:
        assert each["log_level"] == "warning"
        assert (each["messages"], each["known"]) == (len(left), 110)
        assert each["lost"] == lost
        assert each["refresh_id"]
    failed = [e for e in log_entries if e["event"] == "usage.refresh.failed"]
    assert {each["error.type"] for each in failed} == {"ShrinkUnconfirmed"}


@pytest.mark.parametrize("left", [HALF, NEW_PERIOD], ids=["half", "new period"])
async def test_what_is_no_shrink_is_served_at_once(
    service: Client, sandbox: RunningSandbox, left: list[dict[str, object]]
) -> None:
    """Half of the messages may go; a new period has only unknown and later ones."""
    sandbox.sandbox.set_messages(left)

    assert await see(service) == Seen(len(left), is_stale=False)


async def test_a_failure_in_between_does_not_start_the_wait_again(
    service: Client, sandbox: RunningSandbox, clock: Clock
) -> None:
    """An upstream that cannot be called says nothing about its messages."""
    sandbox.sandbox.set_messages([])
    assert await see(service) == Seen(110, is_stale=True)
    clock.pass_s(CONFIRM_S)
    sandbox.sandbox.faults = always("not_found", times=1)
    assert await see(service) == Seen(110, is_stale=True)

    assert await see(service) == Seen(0, is_stale=False)


async def test_confirming_can_be_turned_off(
    client: MakeClient, sandbox: RunningSandbox, clock: Clock
) -> None:
    """With `confirm_shrink_s` 0, any list is served as it comes."""
    sandbox.sandbox.set_messages(PERIOD)
    service = await client(cache={**CACHE, "confirm_shrink_s": 0.0})
    assert await see(service) == Seen(110, is_stale=False)
    clock.pass_s(TTL_S)
    sandbox.sandbox.set_messages([])

    assert await see(service) == Seen(0, is_stale=False)


async def test_a_service_that_knows_no_messages_serves_an_empty_list(
    client: MakeClient, sandbox: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """After a start there is nothing that could have been lost."""
    sandbox.sandbox.set_messages([])

    assert await see(await client(cache=CACHE)) == Seen(0, is_stale=False)
    assert "usage.messages.shrunk" not in {each["event"] for each in log_entries}


async def test_without_a_stale_answer_nothing_is_doubted(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """A snapshot that is too old to be served says nothing about a later list."""
    sandbox.sandbox.set_messages(PERIOD)
    service = await client()  # its cache keeps nothing for later
    assert await see(service) == Seen(110, is_stale=False)
    sandbox.sandbox.set_messages([])

    assert await see(service) == Seen(0, is_stale=False)


async def test_shrinks_are_counted(
    service: Client, sandbox: RunningSandbox, added: Read
) -> None:
    """The metric has the result of each fetch that has lost most messages."""
    sandbox.sandbox.set_messages([])
    await see(service)
    await see(service)

    assert added("copilot_usage_messages_shrunk_total", result="unconfirmed") == 2


# --- the guard ----------------------------------------------------------------------

ALL: Final = Shrink(10, 10, "a")


def check(guard: ShrinkGuard, shrink: Shrink | None) -> bool:
    """Return whether a fetch is used."""
    try:
        guard.check(0, shrink)
    except ShrinkUnconfirmed:
        return False
    return True


@pytest.mark.parametrize(
    "fetches, used",
    [
        ([(0, ALL), (29.9, ALL), (0.1, ALL)], [False, False, True]),
        ([(0, ALL), (30, ALL), (0, ALL)], [False, True, False]),
        ([(0, ALL), (29, None), (30, ALL), (30, ALL)], [False, True, False, True]),
        ([(0, ALL), (30, ALL._replace(survivors="b"))], [False, False]),
        ([(0, None), (0, ALL)], [True, False]),
    ],
    ids=["in time", "once", "flapping", "other survivors", "first"],
)
def test_a_guard_wants_the_same_twice(fetches: list[Any], used: list[bool]) -> None:
    """A shrink is used where a fetch `confirm_s` before has said the same."""
    clock = Clock()
    guard, seen = ShrinkGuard(CONFIRM_S, clock), []
    for wait_s, shrink in fetches:
        clock.pass_s(wait_s)
        seen.append(check(guard, shrink))

    assert seen == used


@pytest.mark.parametrize(
    "known, messages, lost",
    [(110, 0, 110), (110, 54, 56), (110, 55, None), (0, 0, None)],
)
def test_counts_show_a_shrink_where_messages_are_unknown(
    known: int, messages: int, lost: int | None
) -> None:
    """More than half must be gone."""
    shrink = find_shrink_by_count(known, messages)

    assert (shrink and shrink.lost) == lost
