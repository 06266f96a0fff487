"""Endpoints: parameters, and unknown paths and methods."""

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from service.web.parameters import InvalidParameter
from service.web.routes import NoParameters, read_parameters
from tests.conftest import MakeClient

PATHS = ["/", "/health/live", "/usage", "/usage/1", "/v1/usage"]
METHODS = ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"]


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of each kind."""

    word: str | None = None
    number: int | None = None
    since: str | None = msgspec.field(name="from", default=None)


def read(query: str) -> Parameters:
    return read_parameters(make_mocked_request("GET", f"/{query}"), Parameters)


# --- parameters ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "query, expected",
    [
        ("", Parameters()),
        ("?word=x", Parameters(word="x")),
        ("?word=a%20b+c%26", Parameters(word="a b c&")),
        ("?number=7", Parameters(number=7)),
        ("?word=null", Parameters(word="null")),
        ("?word=true&from=1", Parameters(word="true", since="1")),
        ("?from=now&number=1&word=x", Parameters("x", 1, "now")),
    ],
)
def test_parameters_are_decoded(query: str, expected: Parameters) -> None:
    """Each parameter comes with the type and under the name of its declaration."""
    assert read(query) == expected


@pytest.mark.parametrize(
    "query, reason",
    [
        ("?other=1", "other: unknown parameter; known: word, number, from"),
        ("?=1", ": unknown parameter; known: word, number, from"),
        ("?word=1&word=1", "word: more than one value"),
        ("?word=", "word: no value"),
        ("?number=", "number: no value"),
        ("?number=null", "number: expected type integer"),
        ("?number=x", "number: expected type integer"),
        ("?number=1.5", "number: expected type integer"),
        ("?number=" + "9" * 5000, "number: expected type integer"),
    ],
    ids=lambda value: value[:20],
)
def test_a_bad_parameter_is_named(query: str, reason: str) -> None:
    """The error names the parameter and the expected value."""
    with pytest.raises(InvalidParameter) as raised:
        read(query)

    assert str(raised.value) == reason


def test_an_endpoint_without_parameters_refuses_any() -> None:
    """An endpoint without parameters refuses all."""
    request = make_mocked_request("GET", "/?debug=1")

    with pytest.raises(InvalidParameter, match="debug: unknown parameter; known: none"):
        read_parameters(request, NoParameters)


# --- unknown paths and methods ------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", PATHS)
async def test_an_unknown_method_gets_405(
    client: MakeClient, path: str, method: str
) -> None:
    """405 is a problem document, with `Allow`."""
    response = await (await client()).request(method, path)
    problem = await response.json(content_type="application/problem+json")

    assert response.status == problem["status"] == 405
    assert response.headers["Allow"] == "GET, HEAD"
    assert problem["code"] == "method_not_allowed"
    assert problem["detail"] == "allowed: GET, HEAD"
    assert problem["request_id"] == response.headers["X-Request-ID"]


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/usage/", "/usage/1/steps", "/v2/usage", "/USAGE", "/v1"],
)
async def test_an_unknown_path_gets_404(
    client: MakeClient, path: str, method: str
) -> None:
    """404 is a problem document, whatever the method."""
    response = await (await client()).request(method, path)
    problem = await response.json(content_type="application/problem+json")

    assert response.status == problem["status"] == 404
    assert problem["code"] == "not_found"
    assert problem["detail"] == "/docs lists all paths"
    assert problem["request_id"] == response.headers["X-Request-ID"]
