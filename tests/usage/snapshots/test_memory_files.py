"""Bodies move to a file in memory when they are large, and free it."""

import gc
import mmap
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.upstream.bodies import is_json
from service.usage.snapshots import body_hashes, memory_files
from service.usage.snapshots.body_hashes import Hashing
from service.usage.snapshots.memory_files import MappedFile, MemoryBody, ReceivedBody
from tests.leftovers import open_files

CHUNKS = [b'{"messages":[', b"0," * 50_000, b"1]}", b"\n"]


def received(large_bytes: int, chunks: list[bytes]) -> Any:
    """Return a body after all chunks have come."""
    body: Any = ReceivedBody(large_bytes)
    for chunk in chunks:
        body += chunk
    return body


def test_small_body_stays_in_this_process() -> None:
    """It is a plain array of bytes."""
    body = received(1_000_000, CHUNKS)
    assert isinstance(body, bytearray)
    assert body == b"".join(CHUNKS)


@pytest.mark.parametrize("large_bytes", [1, 20, 100_000, 100_016])
def test_large_body_can_be_read_by_path(large_bytes: int) -> None:
    """Another process finds every byte, whenever the body became large."""
    body = received(large_bytes, CHUNKS)
    assert isinstance(body, MemoryBody)
    assert len(body) == len(b"".join(CHUNKS))
    assert (body[:9], body[-3:]) == (b'{"message', b"]}\n")
    assert is_json(body)
    with body as path:
        assert Path(path).read_bytes() == b"".join(CHUNKS)


def test_body_that_was_looked_at_still_grows() -> None:
    """Reading the begin does not move the place of the next chunk."""
    body = MemoryBody(b"begin")
    assert body[:3] == b"beg"
    body += b" end"
    assert not is_json(body)
    assert body[:] == b"begin end"


def test_memory_is_freed() -> None:
    """It is freed after the use, and without a use, as after a failed try."""
    gc.collect()
    files = open_files()
    make = partial(received, 1, CHUNKS)
    with make() as path, Path(path).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert bytes(mapped[:2]) == b'{"'
    del mapped
    make()
    gc.collect()
    assert open_files() == files


def test_body_is_hashed_while_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hashes are those of the whole body, and its memory is freed after them."""
    monkeypatch.setattr(body_hashes, "BLOCK_BYTES", 4_096)
    content, files = b"".join(CHUNKS), open_files()
    with received(1, CHUNKS) as path:
        body = Path(path).read_bytes()
    assert body == content
    unused = received(1, CHUNKS)
    assert unused.finish_hashes() == Hashing(memoryview(content)).hashes
    del unused
    gc.collect()
    assert open_files() == files


def test_released_pages_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that still runs can read them, and the file ends with its closing."""
    monkeypatch.setattr(memory_files, "RELEASED_BYTES", mmap.PAGESIZE)
    gc.collect()
    files, content = open_files(), b"".join(CHUNKS)
    mapped = MappedFile.of(CHUNKS)
    assert bytes(mapped) == Path(mapped.path).read_bytes() == content
    closing = mapped.release()
    assert bytes(mapped) == content
    del mapped
    gc.collect()
    assert open_files() != files
    closing.close()
    assert open_files() == files


def test_body_that_came_at_once_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk follows the one that made it large."""
    monkeypatch.setattr(body_hashes, "BLOCK_BYTES", 4_096)
    content = b"".join(CHUNKS)
    for body in (MemoryBody(content), received(len(content), CHUNKS)):
        assert body.finish_hashes() == Hashing(memoryview(content)).hashes
