"""Endpoints: their parameters, and what every unknown path or method is answered."""

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from service.parameters import InvalidParameter
from service.web.routes import Endpoints, NoParameters, json_answer, read_parameters
from tests.conftest import MakeClient

PATHS = [
    "/",
    "/health/live",
    "/usage",
    "/usage/1",
    "/usage/daily",
    "/usage/plans",
    "/usage/reports",
    "/v1/usage",
]
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
        ("?word=7", Parameters(word="7")),
        ("?word=a%20b+c%26", Parameters(word="a b c&")),
        ("?number=7", Parameters(number=7)),
        ("?number=-7", Parameters(number=-7)),
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
        ("?since=1", "since: unknown parameter; known: word, number, from"),
        ("?Word=1", "Word: unknown parameter; known: word, number, from"),
        ("?=1", ": unknown parameter; known: word, number, from"),
        ("?word=1&word=1", "word: given more than once"),
        ("?word=", "word: given without a value"),
        ("?word", "word: given without a value"),
        ("?number=", "number: given without a value"),
        ("?number=null", "number: given without a value"),
        ("?number=NULL", "number: given without a value"),
        ("?number=x", "number: expected type integer"),
        ("?number=1.5", "number: expected type integer"),
        ("?number=true", "number: expected type integer"),
        ("?number=" + "9" * 5000, "number: expected type integer"),
    ],
    ids=lambda value: value[:20],
)
def test_a_bad_parameter_is_named(query: str, reason: str) -> None:
    """The error says which parameter it is, and what would be right."""
    with pytest.raises(InvalidParameter) as raised:
        read(query)

    assert str(raised.value) == reason


def test_an_endpoint_without_parameters_says_so() -> None:
    """Where nothing may be given, anything given is refused."""
    request = make_mocked_request("GET", "/?debug=1")

    with pytest.raises(InvalidParameter, match="debug: unknown parameter; known: none"):
        read_parameters(request, NoParameters)


# --- declarations -------------------------------------------------------------------


def test_a_declaration_makes_a_route_for_each_path() -> None:
    """One declaration serves all its paths, and leaves the handler as it is."""
    endpoints = Endpoints()

    @endpoints.get("/things", "/v1/things", parameters=NoParameters)
    async def read_things(_: web.Request, __: NoParameters) -> web.StreamResponse:
        return json_answer([])

    (endpoint,) = endpoints
    assert endpoint.name == "read_things"
    assert endpoint.handler is read_things
    assert [(route.method, route.path) for route in endpoints.routes()] == [
        ("GET", "/things"),
        ("GET", "/v1/things"),
    ]


def test_a_json_answer_is_encoded_and_typed() -> None:
    """A struct becomes JSON, with the headers that are asked for."""
    response = json_answer(Parameters(word="x"), {"Vary": "Accept"})

    assert response.body == b'{"word":"x","number":null,"from":null}'
    assert response.content_type == "application/json"
    assert response.headers["Vary"] == "Accept"


# --- what is not there --------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", PATHS)
async def test_an_unknown_method_is_told_the_known_ones(
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
async def test_an_unknown_path_is_told_so(
    client: MakeClient, path: str, method: str
) -> None:
    """404 is a problem document, whatever the method."""
    response = await (await client()).request(method, path)
    problem = await response.json(content_type="application/problem+json")

    assert response.status == problem["status"] == 404
    assert problem["code"] == "not_found"
    assert problem["request_id"] == response.headers["X-Request-ID"]
