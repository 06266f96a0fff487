"""Who asks: how a request carries a key, and whose events it may see."""

import pytest
from aiohttp.test_utils import make_mocked_request

from service.events.keys import Key
from service.web.keys import application_for
from service.web.limits import credential_of
from service.web.problems import FORBIDDEN, RequestProblem


def key(*, can_read_all: bool) -> Key:
    """A key of the shop."""
    return Key(
        id="1",
        digest=b"digest",
        application="shop",
        can_read_all=can_read_all,
        rate_per_s=None,
        created_at=0,
        revoked_at=None,
    )


@pytest.mark.parametrize(
    "headers, credential",
    [
        ({}, None),
        ({"Authorization": "Bearer a"}, "a"),
        ({"Authorization": "BEARER  a  "}, "a"),
        ({"Authorization": "Bearer"}, None),
        ({"Authorization": "Bearer "}, None),
        ({"Authorization": "Basic a"}, None),
        ({"Authorization": "a"}, None),
        ({"X-API-Key": "a"}, "a"),
        ({"Authorization": "Bearer a", "X-API-Key": "b"}, "a"),
        ({"Authorization": "Basic a", "X-API-Key": "b"}, "b"),
        ({"Authorization": "Bearer a b"}, "a b"),
    ],
)
def test_a_key_is_found_where_it_may_be(
    headers: dict[str, str], credential: str | None
) -> None:
    """A bearer token goes first; another scheme is none of ours."""
    assert credential_of(make_mocked_request("GET", "/", headers)) == credential


def test_everybody_reads_their_own() -> None:
    """Named or not, with the right to read all or without."""
    for can_read_all in (False, True):
        for wanted in (None, "shop"):
            assert application_for(key(can_read_all=can_read_all), wanted) == "shop"


def test_only_who_may_read_all_reads_others() -> None:
    """To others it is forbidden, with nothing about whether there is such a one."""
    assert application_for(key(can_read_all=True), "bank") == "bank"
    with pytest.raises(RequestProblem) as raised:
        application_for(key(can_read_all=False), "bank")
    assert raised.value.kind is FORBIDDEN
    assert "bank" not in str(raised.value)
