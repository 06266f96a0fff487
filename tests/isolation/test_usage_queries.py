"""Queries on the period delay neither refreshes nor cached answers."""

import asyncio
import json
from typing import Final

import pytest

from service.sandbox.server import RunningSandbox
from tests.conftest import always, message
from tests.isolation.conftest import MESSAGES, Held, Serve, Until, active
from tests.metric_samples import growth, value

RUNNING: Final = "copilot_usage_lane_running"
WAITING: Final = "copilot_usage_lane_waiting"
REFUSED: Final = "copilot_usage_lane_refused_total"
DISCONNECTED: Final = "http_server_request_duration_seconds_count"
LEFT: Final = {
    "http_request_method": "GET",
    "http_route": "/usage",
    "http_response_status_code": "499",
}
LANE: Final = "usage_queries"
SORTED: Final = "/usage?sort=credits_used:desc&from=2024-01-{:02d}"
PATIENT: Final = {"max_queue": 4, "queue_wait_s": 60.0}


def running() -> float:
    """Return the number of queries that are computed."""
    return value(RUNNING, lane=LANE)


def waiting() -> float:
    """Return the number of queries that wait."""
    return value(WAITING, lane=LANE)


async def test_full_lanes_leave_all_other_answers(
    serve: Serve, sandbox: RunningSandbox, held: Held, until: Until
) -> None:
    """Only queries are refused, by their own code; a refresh is not delayed either."""
    async with serve(limits=PATIENT, cache={"ttl_s": 0.0}) as service:
        await service.get("/usage")
        queries = [await service.send(SORTED.format(day + 1)) for day in range(5)]
        await until(lambda: waiting() == 4)

        refused = await service.get(SORTED.format(30))
        sandbox.sandbox.set_messages([message(7)])
        whole = await service.get("/usage")
        alive = await service.get("/health/live")

        assert refused.status == 503
        assert json.loads(refused.body)["code"] == "usage_queries_full"
        assert json.loads(whole.body)["usage"][0]["message_id"] == 7
        assert alive.status == 200
        # One client gets one of two slots; the other one is left for others.
        assert running() == 1
        for writer in queries:
            writer.close()


@pytest.mark.parametrize("own_process_bytes", [10**9, 1], ids=["thread", "process"])
async def test_queries_of_clients_that_left_are_dropped(
    serve: Serve, held: Held, until: Until, own_process_bytes: int
) -> None:
    """Those that wait are never computed; the running one is cancelled."""
    usage = {"own_process_bytes": own_process_bytes}
    async with serve(limits=PATIENT, usage=usage) as service:
        await service.get("/usage")
        if own_process_bytes == 1:
            held.is_released.set()  # the child has its own `select`
        connections = [await service.send(SORTED.format(day + 1)) for day in range(5)]
        if own_process_bytes > 1:
            await until(lambda: waiting() == 4)

        for writer in connections:
            writer.close()
        await until(lambda: running() == waiting() == 0)

        held.is_released.set()
        answer = await service.get(SORTED.format(9))
        assert len(json.loads(answer.body)["usage"]) == MESSAGES
        assert held.running == 0


async def test_queries_of_clients_that_leave_at_once_are_dropped(
    serve: Serve, held: Held, until: Until
) -> None:
    """A client whose connection ends with its request leaves the queue at once."""
    read = growth()
    async with serve(limits=PATIENT) as service:
        await service.get("/usage")
        first = await service.send(SORTED.format(1))
        await until(lambda: held.running == 1)

        for day in range(2, 6):
            # The end arrives before the request has its place in the queue.
            (await service.send(SORTED.format(day))).close()
        await until(lambda: read(DISCONNECTED, **LEFT) == 4)

        assert (running(), waiting(), held.running) == (1, 0, 1)
        first.close()
        await until(lambda: held.cancelled == 1)


async def test_a_cancelled_query_stops_computing(
    serve: Serve, held: Held, until: Until
) -> None:
    """The thread is free again when the client has left."""
    async with serve(limits=PATIENT) as service:
        await service.get("/usage")
        writer = await service.send(SORTED.format(1))
        await until(lambda: held.running == 1)

        writer.close()

        await until(lambda: held.cancelled == 1)
        await until(lambda: held.running == 0)


async def test_a_query_has_a_time_limit(serve: Serve, held: Held, until: Until) -> None:
    """A query that takes too long gets 503, and is not computed to its end."""
    async with serve(usage={"query_timeout_s": 0.05}) as service:
        await service.get("/usage")

        answer = await service.get(SORTED.format(1))

        assert answer.status == 503
        assert json.loads(answer.body)["code"] == "usage_query_timeout"
        await until(lambda: held.cancelled == 1)


async def test_a_waiting_query_is_refused_in_time(serve: Serve, held: Held) -> None:
    """After `queue_wait_s` the client gets 503 with the time for its next try."""
    read = growth()
    async with serve(limits={"queue_wait_s": 0.05}) as service:
        await service.get("/usage")
        writer = await service.send(SORTED.format(1))

        answer = await service.get(SORTED.format(2))

        assert answer.status == 503
        assert json.loads(answer.body)["code"] == "usage_queries_full"
        assert read(REFUSED, lane=LANE, reason="waited") == 1
        writer.close()


async def test_equal_queries_share_one_computation(
    serve: Serve, held: Held, until: Until
) -> None:
    """Only one of them needs a slot; the others wait for its result."""
    async with serve(limits=PATIENT) as service:
        await service.get("/usage")
        asked = [asyncio.create_task(service.get(SORTED.format(1))) for _ in range(20)]
        await until(lambda: active() == 20 and held.running == 1)
        assert (running(), waiting()) == (1, 0)

        # The client that began it leaves: the others still get the result.
        asked[0].cancel()
        held.is_released.set()
        answers = await asyncio.gather(*asked[1:])

        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1


async def test_a_request_has_a_deadline(serve: Serve, sandbox: RunningSandbox) -> None:
    """Whatever a request waits for, it is answered in `request_timeout_s`."""
    async with serve(
        server={"request_timeout_s": 0.1},
        limits={"queue_wait_s": 0.1},
        usage={"query_timeout_s": 0.1},
        events={"query_timeout_s": 0.1},
    ) as service:
        sandbox.sandbox.faults = always("hang")

        answer = await service.get("/usage")

        assert answer.status == 503
        assert json.loads(answer.body)["code"] == "request_timeout"
