"""Hashes of blocks show which first bytes two bodies share."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.usage.snapshots import body_hashes
from service.usage.snapshots.body_hashes import ArrivingHashes, BodyHashes, Hashing
from service.usage.snapshots.memory_files import memory_file

BLOCK_BYTES = 4


@pytest.fixture(autouse=True, scope="module")
def _blocks_are_small() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_hashes, "BLOCK_BYTES", BLOCK_BYTES)
        yield


def hash_now(body: bytes, *, in_thread: bool = False) -> BodyHashes:
    hashing = Hashing(memoryview(body))
    if in_thread:
        hashing.start()
    return hashing.hashes


BODIES = st.binary(max_size=20)


@given(BODIES, BODIES, BODIES)
def test_equal_bytes_end_in_the_block_of_the_first_change(
    same: bytes, now: bytes, before: bytes
) -> None:
    """No byte that differs counts as equal, and at most one block is missed."""
    now, before = same + now, same + before
    equal = hash_now(now).count_equal_bytes(hash_now(before))
    assert now[:equal] == before[:equal]
    assert equal > len(same) - BLOCK_BYTES
    assert (hash_now(now).digest == hash_now(before).digest) == (now == before)


@given(BODIES)
def test_a_thread_computes_the_same_hashes(body: bytes) -> None:
    """The way of hashing does not change the digest."""
    assert hash_now(body, in_thread=True) == hash_now(body)


@given(BODIES, st.lists(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_a_body_that_arrives_in_parts_has_the_same_hashes(
    body: bytes, cuts: list[int], seen: set[int]
) -> None:
    """The sizes of its parts do not matter, nor which of them are hashed at once."""
    places = sorted({min(cut, len(body)) for cut in [0, *cuts, len(body)]})
    with memory_file() as file:
        arriving = ArrivingHashes(file)
        for begin, end in pairwise(places):
            file.write(body[begin:end])
            if end in seen:
                arriving.grow(end)
        assert arriving.finish(len(body)) == hash_now(body)
