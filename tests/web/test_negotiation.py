"""Content negotiation: which of the offered types an `Accept` chooses."""

import pytest

from service.web.negotiation import choose
from service.web.problems import NOT_ACCEPTABLE, RequestProblem

OFFERED = ("application/json", "application/x-ndjson", "text/csv")
JSON, NDJSON, CSV = OFFERED


@pytest.mark.parametrize(
    "accept, chosen",
    [
        ("", JSON),
        (" , ", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/*", CSV),
        ("text/csv", CSV),
        ("TEXT/CSV", CSV),
        ("application/x-ndjson", NDJSON),
        ("text/csv;charset=utf-8", CSV),
        ("text/csv ; q=0.5 , application/json;q=0.4", CSV),
        ("text/csv;q=0.4,application/json;q=0.5", JSON),
        ("text/csv,application/json", JSON),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
        ("text/html, text/csv;q=0.1", CSV),
        ("application/json;q=0,*/*", NDJSON),
        ("application/*;q=0,*/*;q=0.1", CSV),
        ("*/*;q=0.1,application/x-ndjson;q=0.2", NDJSON),
        ("application/json;q=0.1,application/*;q=0.9", NDJSON),
        ("text/html, image/gif, *; q=.2, */*; q=.2", JSON),
        ("text/csv;q=7", CSV),
        ("text/csv;q=nonsense,application/json;q=0.1", JSON),
        ("text/csv;q=nan,application/json;q=0.1", JSON),
        ("text/csv;Q=0.1,application/json;q=0.2", JSON),
        ("text/csv;q=1,text/csv;q=0", CSV),
    ],
)
def test_the_best_liked_type_is_chosen(accept: str, chosen: str) -> None:
    """The most specific range decides, and the order of the offer among equals."""
    assert choose(accept, OFFERED) == chosen


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/problem+json",
        "image/*",
        "*/*;q=0",
        "application/json;q=0",
        "text/csv;q=0.000",
        "text/csv;q=-1",
        "text/csv;q=nan",
        "nonsense",
        "\udcff",
    ],
    ids=ascii,
)
def test_a_caller_who_takes_none_is_told_what_there_is(accept: str) -> None:
    """406 lists every type on offer."""
    with pytest.raises(RequestProblem) as raised:
        choose(accept, OFFERED)

    assert raised.value.kind is NOT_ACCEPTABLE
    assert str(raised.value) == f"offered: {', '.join(OFFERED)}"
