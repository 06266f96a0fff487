"""The OpenAPI document: valid, complete, and true of what is really answered."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import pytest
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from service.app import create_app
from service.events import handlers as events
from service.sandbox.server import RunningSandbox
from service.usage import handlers as usage
from service.usage.snapshots.selection import MAX_LIMIT
from service.web import dashboard, problems
from service.web.docs import DOCUMENT
from service.web.openapi import Json, describe
from service.web.routes import Endpoints, NoParameters
from tests.conftest import MakeClient, MakeSettings, always, message, report

PROBLEM_TYPE: Final = "application/problem+json"
ALL: Final = {"events": {"enabled": True}, "vehicles": {"enabled": True}}
"""What can be turned off."""


@pytest.fixture
def document(settings: MakeSettings) -> Json:
    """The document of the real application, without serving it."""
    decoded: Json = msgspec.json.decode(create_app(settings(**ALL))[DOCUMENT])
    return decoded


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """All operations, each with its path and method."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def codes(operation: Json, status: int) -> list[str]:
    """The problem codes that an operation may answer under a status."""
    content = operation["responses"][str(status)]["content"][PROBLEM_TYPE]
    narrowed = content["schema"]["allOf"][1]["properties"]
    assert narrowed["status"] == {"const": status}
    return list(narrowed["code"]["enum"])


def faults_of(document: Json, schema: Json, body: object) -> list[str]:
    """What a schema of the document says against a body."""
    whole = {**schema, "components": document["components"]}
    return [each.message for each in OAS31Validator(whole).iter_errors(body)]


# --- the whole ----------------------------------------------------------------------


async def test_served_document_is_valid(
    client: MakeClient, document: Json, tmp_path: Path
) -> None:
    """`/openapi.json` serves a valid OpenAPI 3.1 document as JSON."""
    storage = {"url": f"sqlite+aiosqlite:///{tmp_path}/events.db"}
    service = await client(**ALL, storage=storage)
    answer = await service.get("/openapi.json")
    assert answer.content_type == "application/json"
    served = await answer.json()
    assert served == document
    assert served["openapi"] == "3.1.0"
    validate(served)


def test_document_tells_what_it_describes(document: Json) -> None:
    """Title, version and description come with it, and a word on every domain."""
    info = document["info"]
    assert info["title"] == "Copilot usage"
    assert info["version"] == "0.1.0"
    assert "credits" in info["description"]
    described = {tag["name"]: tag["description"] for tag in document["tags"]}
    assert list(described) == [
        "usage",
        "events",
        "vehicles",
        "dashboard",
        "index",
        "health",
        "metrics",
        "docs",
    ]
    assert described["usage"].startswith("The endpoints of usage")
    assert {each["tags"][0] for _, _, each in operations(document)} == set(described)


PRINT_DOCUMENT: Final = """
import sys
from service.app import create_app
from service.settings import load
from service.web.docs import DOCUMENT
sys.stdout.buffer.write(create_app(load().settings)[DOCUMENT])
"""


def test_document_is_the_same_in_every_process() -> None:
    """Whatever the hash seed, the bytes are the same."""
    first, second = (
        subprocess.run(  # noqa: S603 - it runs this interpreter
            [sys.executable, "-c", PRINT_DOCUMENT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    )
    assert len(first) > 1000
    assert first == second


def test_document_and_router_know_the_same_paths(
    settings: MakeSettings, document: Json
) -> None:
    """No route is missing in the document, and it has none that is not served.

    But for the dashboard's files, which only the page itself asks for.
    """
    served = {
        (route.resource.canonical, route.method.lower())
        for route in create_app(settings(**ALL)).router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    served -= {(route.path, "get") for route in dashboard.file_routes()}
    assert {(path, method) for path, method, _ in operations(document)} == served


def test_alias_is_an_operation_of_its_own(document: Json) -> None:
    """`/v1/usage` is `/usage` again, under another operation id."""
    first, alias = (document["paths"][path]["get"] for path in ("/usage", "/v1/usage"))
    assert first["operationId"] == "read_usage"
    assert alias["operationId"] == "read_usage_at_v1_usage"
    assert alias["x-alias-of"] == "read_usage"
    for part in ("summary", "parameters", "responses"):
        assert alias[part] == first[part]


# --- parameters ---------------------------------------------------------------------


def own_parameters(operation: Json) -> dict[str, Json]:
    """The operation's parameters by name, those of all operations left out."""
    return {each["name"]: each for each in operation["parameters"] if "name" in each}


def test_query_parameters_are_those_of_the_struct(document: Json) -> None:
    """Names as the query has them, with types, bounds and examples, none required."""
    parameters = own_parameters(document["paths"]["/usage"]["get"])
    assert list(parameters) == ["plan", "from", "to", "sort", "limit", "cursor"]
    assert all(each["in"] == "query" for each in parameters.values())
    assert all(each["description"] for each in parameters.values())
    assert not any(each["required"] for each in parameters.values())
    assert parameters["from"]["schema"] == {"type": "string", "minLength": 1}
    assert parameters["limit"]["schema"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_LIMIT,
    }
    assert parameters["sort"]["schema"]["examples"]


def test_path_parameters_are_those_of_the_path(document: Json) -> None:
    """A variable of the path is a required parameter."""
    parameters = own_parameters(document["paths"]["/usage/{message_id}"]["get"])
    assert list(parameters) == ["message_id", "plan"]
    assert parameters["message_id"]["in"] == "path"
    assert parameters["message_id"]["required"] is True


def test_request_id_is_documented_everywhere(document: Json) -> None:
    """Every operation takes `X-Request-ID`, and every answer carries it."""
    for path, _, operation in operations(document):
        parameters = operation["parameters"]
        assert {"$ref": "#/components/parameters/X-Request-ID"} in parameters, path
        for response in operation["responses"].values():
            assert "X-Request-ID" in response["headers"], path


# --- answers ------------------------------------------------------------------------


def test_every_media_type_has_its_schema(document: Json) -> None:
    """JSON is described by the answer's struct, CSV and NDJSON as text."""
    content = document["paths"]["/usage"]["get"]["responses"]["200"]["content"]
    assert content == {
        "application/json": {"schema": {"$ref": "#/components/schemas/UsageAnswer"}},
        "application/x-ndjson": {"schema": {"type": "string"}},
        "text/csv": {"schema": {"type": "string"}},
    }


def test_answer_headers_are_described(document: Json) -> None:
    """The headers that an endpoint declares are those of its 200 answer."""
    answer = document["paths"]["/usage"]["get"]["responses"]["200"]
    declared = {*usage.PLAN_HEADERS, "Link", "X-Request-ID"}
    assert set(answer["headers"]) == declared


@pytest.mark.parametrize(
    "path, template",
    [
        ("/usage", "/usage"),
        ("/usage?limit=1", "/v1/usage"),
        ("/usage/daily", "/usage/daily"),
        ("/usage/reports", "/usage/reports"),
        ("/usage/plans", "/usage/plans"),
        ("/usage/1", "/usage/{message_id}"),
        ("/usage/2", "/usage/{message_id}"),
        ("/", "/"),
        ("/health/live", "/health/live"),
        ("/openapi.json", "/openapi.json"),
    ],
)
async def test_live_answer_matches_its_schema(
    client: MakeClient,
    sandbox: RunningSandbox,
    document: Json,
    path: str,
    template: str,
) -> None:
    """What is really answered is what the document promises."""
    sandbox.sandbox.set_messages([message(1), message(2, report_id=7)])
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    answer = await (await client()).get(path)
    promised = document["paths"][template]["get"]["responses"]["200"]
    schema = promised["content"][answer.content_type]["schema"]
    assert faults_of(document, schema, await answer.json()) == []


@pytest.mark.parametrize(
    "item",
    [
        {"message_id": 1, "timestamp": "2024-04-29T03:25:03.613Z"},
        {"message_id": "1", "timestamp": "", "credits_used": 1.0},
        {"message_id": 1, "timestamp": "", "credits_used": 1.0, "report_name": None},
    ],
    ids=["no credits", "id as text", "null for no report"],
)
def test_schema_refuses_what_breaks_the_contract(document: Json, item: Json) -> None:
    """The schema of `/usage` is strict enough to be worth validating against."""
    schema = {"$ref": "#/components/schemas/UsageAnswer"}
    assert faults_of(document, schema, {"usage": [item]})


# --- problems -----------------------------------------------------------------------


def test_declared_problems_are_documented(document: Json) -> None:
    """Every code that a handler may answer stands under its status."""
    for endpoint in (*usage.endpoints, *events.endpoints):
        for path, kind in product(endpoint.paths, endpoint.problems):
            operation = document["paths"][path][endpoint.method.lower()]
            assert kind.code in codes(operation, kind.status), (path, kind)


def test_what_needs_a_key_says_so(document: Json) -> None:
    """Every operation about events, either way of sending the key; and no other."""
    schemes = document["components"]["securitySchemes"]
    for path, _, operation in operations(document):
        needed = [name for each in operation.get("security", []) for name in each]
        assert bool(needed) == (operation["tags"] == ["events"]), path
        assert not needed or needed == list(schemes)
        assert not needed or codes(operation, 401) == ["unauthorized"]
    assert schemes["key"] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}


def test_a_body_is_described_by_what_decodes_it(document: Json) -> None:
    """One event or a list; the example keeps the schema, a wrong event does not."""
    body = document["paths"]["/events"]["post"]["requestBody"]
    content = body["content"]["application/json"]
    assert body["required"] is True
    assert body["content"]["application/x-ndjson"] == {"schema": {"type": "string"}}
    example = content["example"]
    assert faults_of(document, content["schema"], example) == []
    assert faults_of(document, content["schema"], [example, example]) == []
    for wrong in ({**example, "session_id": ""}, {**example, "colour": "red"}, 1):
        assert faults_of(document, content["schema"], wrong)


def test_a_good_answer_has_the_status_that_is_declared(document: Json) -> None:
    """Sending events is answered by 202, and says nothing of 200."""
    responses = document["paths"]["/events"]["post"]["responses"]
    assert "200" not in responses
    schema = responses["202"]["content"]["application/json"]["schema"]
    receipt = {"accepted": 0, "duplicates": 0, "failed": 0, "results": []}
    assert faults_of(document, schema, receipt) == []


@pytest.mark.parametrize(
    "path, accept, template",
    [
        ("/usage?limit=0", "*/*", "/usage"),
        ("/v1/usage?limit=many", "*/*", "/v1/usage"),
        ("/usage?colour=red", "*/*", "/usage"),
        ("/usage?plan=none", "*/*", "/usage"),
        ("/usage", "image/png", "/usage"),
        ("/usage/daily?tz=Mars", "*/*", "/usage/daily"),
        ("/usage/999", "*/*", "/usage/{message_id}"),
        ("/?colour=red", "*/*", "/"),
        ("/health/live?colour=red", "*/*", "/health/live"),
        ("/docs?colour=red", "*/*", "/docs"),
    ],
)
async def test_live_problem_is_documented(
    client: MakeClient, document: Json, path: str, accept: str, template: str
) -> None:
    """A refusal has a documented status, code and shape."""
    answer = await (await client()).get(path, headers={"Accept": accept})
    body = await answer.json()
    operation = document["paths"][template]["get"]
    assert answer.content_type == PROBLEM_TYPE
    assert body["code"] in codes(operation, answer.status)
    promised = operation["responses"][str(answer.status)]["content"][PROBLEM_TYPE]
    assert faults_of(document, promised["schema"], body) == []


async def test_live_outage_is_documented(
    client: MakeClient, sandbox: RunningSandbox, document: Json
) -> None:
    """An outage upstream is a documented 503, its `Retry-After` included."""
    sandbox.sandbox.faults = always("not_found")
    answer = await (await client()).get("/usage")
    operation = document["paths"]["/usage"]["get"]
    assert (await answer.json())["code"] in codes(operation, answer.status)
    header = document["components"]["headers"]["Retry-After"]
    assert "Retry-After" in operation["responses"]["503"]["headers"]
    seconds = int(answer.headers["Retry-After"])
    assert faults_of(document, header["schema"], seconds) == []


def test_every_code_of_the_contract_has_an_example(document: Json) -> None:
    """Also the codes of paths and methods that do not exist are listed, once each."""
    contract = {*problems.KINDS.values(), problems.INTERNAL_ERROR}
    examples = document["components"]["examples"]
    assert {kind.code for kind in contract} <= set(examples)
    problem = {"$ref": "#/components/schemas/Problem"}
    for code, example in examples.items():
        assert example["value"]["code"] == code
        assert faults_of(document, problem, example["value"]) == []


# --- the generator, on endpoints of the tests' own ----------------------------------


class Query(Struct, frozen=True):
    """Parameters of every sort."""

    colour: Annotated[str, Meta(max_length=9, description="Any colour.")]
    size: Literal["small", "large"] = "small"
    shade: int | str | None = None


class Part(Struct, frozen=True):
    """Something inside."""

    note: str | UnsetType
    name: str = "none"


class Whole(Struct, frozen=True):
    """Something with parts."""

    parts: list[Part]
    spare: Part | UnsetType = UNSET


@pytest.fixture
def generated() -> Json:
    """The document of one endpoint that has a bit of everything."""
    made = Endpoints()

    @made.get("/things/{thing:[0-9]{2}}", parameters=Query, answer=Whole)
    async def read_thing(_: web.Request, __: Query) -> web.StreamResponse:
        """One thing.

        A second paragraph, that is
        longer.
        """
        raise NotImplementedError

    @made.get("/file", parameters=NoParameters, media_types=("application/json",))
    async def read_file(_: web.Request, __: NoParameters) -> web.StreamResponse:
        raise NotImplementedError

    document = describe(made)
    validate(document)
    return document


def test_docstring_is_summary_and_description(generated: Json) -> None:
    """The first paragraph of the handler's docstring sums up, the rest describes."""
    operation = generated["paths"]["/things/{thing}"]["get"]
    assert operation["summary"] == "One thing."
    assert operation["description"] == "A second paragraph, that is longer."
    undescribed = generated["paths"]["/file"]["get"]
    assert undescribed["summary"] == ""
    assert "description" not in undescribed


def test_parameters_tell_what_is_required_and_what_is_default(generated: Json) -> None:
    """A field without default is required; null, which no query has, is left out."""
    parameters = own_parameters(generated["paths"]["/things/{thing}"]["get"])
    assert parameters["thing"]["in"] == "path"
    assert parameters["colour"] == {
        "name": "colour",
        "in": "query",
        "required": True,
        "description": "Any colour.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 9},
    }
    assert parameters["size"]["schema"] == {
        "enum": ["large", "small"],
        "default": "small",
    }
    assert parameters["shade"]["required"] is False
    choices: list[Any] = parameters["shade"]["schema"]["anyOf"]
    assert sorted(each["type"] for each in choices) == ["integer", "string"]


def test_answers_require_what_is_always_sent(generated: Json) -> None:
    """Only what may be UNSET may be missing, wherever defaults are."""
    schemas = generated["components"]["schemas"]
    assert schemas["Part"]["required"] == ["name"]
    assert schemas["Whole"]["required"] == ["parts"]


def test_parameter_structs_are_no_schemas_of_their_own(generated: Json) -> None:
    """Only bodies are published as schemas."""
    assert list(generated["components"]["schemas"]) == ["Part", "Problem", "Whole"]


def test_json_of_no_declared_type_may_be_anything(generated: Json) -> None:
    """Where no answer type is declared, the schema allows all JSON."""
    answer = generated["paths"]["/file"]["get"]["responses"]["200"]
    assert answer["content"] == {"application/json": {"schema": {}}}
    assert answer["description"] == "OK"
