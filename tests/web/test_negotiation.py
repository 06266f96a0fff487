"""Content negotiation: media types and content codings."""

import pytest

from service.web.negotiation import choose, codings_for
from service.web.problems import NOT_ACCEPTABLE, RequestProblem

OFFERED = ("application/json", "application/x-ndjson", "text/csv")
JSON, NDJSON, CSV = OFFERED


@pytest.mark.parametrize(
    "accept, chosen",
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/*", CSV),
        ("text/csv", CSV),
        ("text/csv;charset=utf-8", CSV),
        ("application/x-ndjson", NDJSON),
        ("text/csv ; q=0.5 , application/json;q=0.4", CSV),
        ("text/csv,application/json", JSON),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
        ("application/json;q=0,*/*", NDJSON),
        ("application/*;q=0,*/*;q=0.1", CSV),
        ("application/json;q=0.1,application/*;q=0.9", NDJSON),
        ("text/html, image/gif, *; q=0.2, */*; q=0.2", JSON),
        ("*/*;q=.2, text/csv;q=0.001", CSV),
        ("text/csv;q=7,application/json;q=0.1", JSON),
        ("text/csv;q=0.0001,application/json;q=0.001", JSON),
        ("text/csv;q=1.000,application/json;q=0.999", CSV),
        ("text/csv;q=nonsense,application/json;q=0.1", JSON),
        ("text/csv;Q=0.1,application/json;q=0.2", JSON),
    ],
)
def test_the_type_of_the_highest_quality_is_chosen(accept: str, chosen: str) -> None:
    """The most specific range decides; among equals, the order of the offer."""
    assert choose(accept, OFFERED) == chosen


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "*/*;q=0",
        "text/csv;q=-1",
        "text/csv;q=7",
        "text/html, image/gif, *; q=.2, */*; q=.2",
        "nonsense",
        "\udcff",
    ],
    ids=ascii,
)
def test_without_an_acceptable_type_the_offer_is_listed(accept: str) -> None:
    """406 lists every type on offer."""
    with pytest.raises(RequestProblem) as raised:
        choose(accept, OFFERED)

    assert raised.value.kind is NOT_ACCEPTABLE
    assert str(raised.value) == f"offered: {', '.join(OFFERED)}"


@pytest.mark.parametrize(
    "accept_encoding, codings",
    [
        ("", ["identity"]),
        ("gzip", ["gzip", "identity"]),
        ("gzip, deflate, br, zstd", ["zstd", "gzip", "identity"]),
        ("gzip;q=1.0, zstd;q=0.5", ["gzip", "zstd", "identity"]),
        ("gzip;q=0", ["identity"]),
        ("*", ["zstd", "gzip", "identity"]),
        ("*;q=0, gzip", ["gzip", "identity"]),
        ("zstd;q=0, *", ["gzip", "identity"]),
        ("identity, gzip;q=0.5", ["identity", "gzip"]),
        ("identity;q=0, gzip", ["gzip", "identity"]),
        ("br", ["identity"]),
        ("GZIP", ["gzip", "identity"]),
        (" gzip ; q=0.5 ,, zstd ; q=0.7 ", ["zstd", "gzip", "identity"]),
        ("gzip;q=nonsense", ["identity"]),
        ("gzip;q=7, zstd;q=.5", ["identity"]),
    ],
)
def test_codings_follow_accept_encoding(
    accept_encoding: str, codings: list[str]
) -> None:
    """Quality values, exclusions and `*` (RFC 9110 §12.5.3); identity comes last."""
    assert list(codings_for(accept_encoding)) == codings
