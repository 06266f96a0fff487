"""Whether a stream can be used, by what a server says of its replicas."""

import msgspec
import pytest

from service.events.queue.administration import problem_of
from service.events.queue.stream_api import StreamInfo

CURRENT = {"name": "n", "current": True}
BEHIND = {"name": "n", "current": False}
OFFLINE = {"name": "n", "current": False, "offline": True}


@pytest.mark.parametrize(
    "cluster, expected",
    [
        pytest.param(None, True, id="a single server"),
        pytest.param(("a", CURRENT, CURRENT), True, id="whole"),
        pytest.param(("a", CURRENT, OFFLINE), True, id="one is away"),
        pytest.param(("a", BEHIND, BEHIND), True, id="two catch up"),
        pytest.param(("a", OFFLINE, OFFLINE), False, id="two are away"),
        pytest.param(("", CURRENT, CURRENT, CURRENT), False, id="an election"),
        # The answer of the last of three servers, version 2.9.10.
        pytest.param(("", BEHIND, BEHIND, BEHIND), False, id="the last server"),
    ],
)
def test_a_stream_needs_a_leader_and_most_replicas(
    cluster: tuple[object, ...] | None, *, expected: bool
) -> None:
    """Without a leader nothing is acknowledged, though no replica is offline."""
    answer: dict[str, object] = {
        "config": {"name": "s", "num_replicas": 3 if cluster else 1}
    }
    if cluster:
        leader, *replicas = cluster
        answer["cluster"] = {"leader": leader, "replicas": list(replicas)}
    info = msgspec.json.decode(msgspec.json.encode(answer), type=StreamInfo)

    assert (problem_of(info) is None) is expected
