"""The LRU cache drops what was unused for the longest time."""

from service.storage.lru_cache import LruCache


def test_peek_does_not_mark_as_used() -> None:
    """An entry that was only looked at is dropped in its turn."""
    cache = LruCache[str, int](2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.peek("a") == 1
    assert cache.peek("missing", 7) == 7

    cache.put("c", 3)

    assert cache.get("a") is None


def test_bytes_are_bounded() -> None:
    """Replaced and removed values no longer count; larger ones than the bound go."""
    cache = LruCache[str, bytes](max_bytes=10, size_of=len)
    cache.put("a", bytes(6))
    cache.put("a", bytes(4))
    cache.put("b", bytes(6))
    assert "a" in cache

    cache.put("c", bytes(1))
    assert "a" not in cache
    cache.remove("b")
    cache.put("d", bytes(9))
    assert "c" in cache

    cache.put("e", bytes(11))
    assert len(cache) == 0
