"""Splitting by brackets and commas: it agrees with JSON, whatever is in the items."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.events.splitting import read_error, split_list, split_object

texts = st.text(st.sampled_from('a"\\,:[]{} \u20ac\ud800'))
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=8,
)


@given(items=st.lists(values, max_size=4), indent=st.none() | st.just(1))
@example(items=["\\"], indent=None)
@example(items=[], indent=1)
def test_lists_and_objects_are_split(items: list[Any], indent: int | None) -> None:
    """The items of a list, and the members of an object, are those of JSON."""
    found = split_list(json.dumps(items, indent=indent).encode())
    assert found is not None
    assert [json.loads(each) for each in found] == items
    members = {str(place): item for place, item in enumerate(items)}
    named = split_object(json.dumps(members, indent=indent).encode())
    assert named is not None
    assert {name: json.loads(each) for name, each in named.items()} == members


@given(value=values)
def test_json_is_told_from_other_texts(value: Any) -> None:
    """JSON with a lone surrogate is unreadable; a text that is cut off is not JSON."""
    text = json.dumps(value).encode()

    error = read_error(text)

    assert error is None or error.code == "unreadable"
    cut = read_error(text[:-1] if not isinstance(value, int) else b"")
    assert cut is not None
    assert cut.code == "not_json"


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[", b"[[]", b"[]]", b'["]', b"[1,]", b"[][]", b"1"]
)
def test_other_texts_are_not_split(text: bytes) -> None:
    """A list needs its own brackets, and no item may be empty."""
    assert split_list(text) is None
