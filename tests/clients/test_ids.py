"""Ids and timestamps of events."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Thread
from uuid import UUID

import pytest

from copilot_usage_client.ids import Stamps
from tests.clients.conftest import MakeClient, view_pages
from tests.patience import GIVE_UP_S


def test_ids_are_ascending_uuids_of_version_7() -> None:
    """Ids ascend with time and differ, and have the form of RFC 9562."""
    stamps = Stamps()
    ids = [stamps.next()[0] for _ in range(20_000)]

    assert ids == sorted(set(ids))
    for each in ids[::100]:
        assert (UUID(each).version, UUID(each).variant) == (
            7,
            UUID(int=2 << 62).variant,
        )
        assert str(UUID(each)) == each


def test_a_millisecond_that_is_used_up_borrows_from_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More ids than the counter has room for ascend and differ all the same."""
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    stamps = Stamps()
    ids = [stamps.next()[0] for _ in range(10_000)]

    assert ids == sorted(set(ids))
    assert {UUID(each).int >> 80 for each in ids} == {10**12, 10**12 + 1, 10**12 + 2}


def test_ids_ascend_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set back makes no id twice, and none that is smaller."""
    moments: Iterator[int] = iter([2 * 10**18, 10**18, 10**18, 2 * 10**18 + 1])
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    stamps = Stamps()
    ids = [stamps.next()[0] for _ in range(4)]

    assert ids == sorted(set(ids))


def test_a_stamp_has_the_time_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Id and timestamp have the same moment, to the millisecond and microsecond."""
    monkeypatch.setattr(time, "time_ns", lambda: 1_609_492_527_243_860_999)
    event_id, timestamp = Stamps().next()

    assert timestamp == "2021-01-01T09:15:27.243860Z"
    at = datetime(2021, 1, 1, 9, 15, 27, 243000, UTC)
    assert UUID(event_id).int >> 80 == round(at.timestamp() * 1_000)


def test_threads_share_no_id(make_client: MakeClient) -> None:
    """Ids of concurrent threads differ."""
    client, ids = make_client(), list[str]()
    threads = [
        Thread(target=lambda: ids.extend(view_pages(client, range(500))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GIVE_UP_S)

    assert len(set(ids)) == len(ids) == 4_000
