"""The OpenAPI document: valid, complete, and equal to the actual answers."""

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

from service.app import PROBLEM_KINDS, create_app
from service.events import handlers as events
from service.sandbox.server import RunningSandbox
from service.settings.auth import ALWAYS_REQUIRED
from service.usage import handlers as usage
from service.web import docs, problems, static_pages
from service.web.credentials import PUBLIC_SCOPE
from service.web.docs import DOCUMENTATION
from service.web.openapi import describe
from service.web.openapi_schemas import JsonObject
from service.web.routes import Endpoints, NoParameters
from tests.conftest import MakeClient, MakeSettings, always, message, report

PROBLEM_TYPE: Final = "application/problem+json"
ALL: Final = {name: {"enabled": True} for name in ("events", "periods", "vehicles")}
"""Enables the optional domains."""


@pytest.fixture
def document(settings: MakeSettings) -> JsonObject:
    """The document of the real application, without serving it."""
    decoded: JsonObject = msgspec.json.decode(
        create_app(settings(**ALL))[DOCUMENTATION].encode()
    )
    return decoded


def operations(document: JsonObject) -> Iterator[tuple[str, str, JsonObject]]:
    """All operations, each with its path and method."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def codes(operation: JsonObject, status: int) -> list[str]:
    """The problem codes that an operation may answer under a status."""
    content = operation["responses"][str(status)]["content"][PROBLEM_TYPE]
    narrowed = content["schema"]["allOf"][1]["properties"]
    assert narrowed["status"] == {"const": status}
    return list(narrowed["code"]["enum"])


def faults_of(document: JsonObject, schema: JsonObject, body: object) -> list[str]:
    """Errors of a body by a schema of the document."""
    whole = {**schema, "components": document["components"]}
    return [each.message for each in OAS31Validator(whole).iter_errors(body)]


# --- the whole ----------------------------------------------------------------------


async def test_served_document_is_valid(
    client: MakeClient, document: JsonObject, tmp_path: Path
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


PRINT_DOCUMENT: Final = """
import sys
from service.app import create_app
from service.settings import load
from service.web.docs import DOCUMENTATION
sys.stdout.buffer.write(create_app(load().settings)[DOCUMENTATION].encode())
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
    settings: MakeSettings, document: JsonObject
) -> None:
    """Every route is in the document, except for the files of pages."""
    served = {
        (route.resource.canonical, route.method.lower())
        for route in create_app(settings(**ALL)).router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    files = (*static_pages.file_routes(), *docs.file_routes())
    served -= {(route.path, "get") for route in files}
    assert {(path, method) for path, method, _ in operations(document)} == served


def test_alias_is_an_operation_of_its_own(document: JsonObject) -> None:
    """`/v1/usage` is `/usage` again, under another operation id."""
    first, alias = (document["paths"][path]["get"] for path in ("/usage", "/v1/usage"))
    assert first["operationId"] == "read_usage"
    assert alias["operationId"] == "read_usage_at_v1_usage"
    assert alias["x-alias-of"] == "read_usage"
    for part in ("summary", "parameters", "responses"):
        assert alias[part] == first[part]


# --- parameters ---------------------------------------------------------------------


def own_parameters(operation: JsonObject) -> dict[str, JsonObject]:
    """The operation's parameters by name, those of all operations left out."""
    return {each["name"]: each for each in operation["parameters"] if "name" in each}


def test_request_id_is_documented_everywhere(document: JsonObject) -> None:
    """Every operation takes `X-Request-ID`, and every answer carries it."""
    for path, _, operation in operations(document):
        parameters = operation["parameters"]
        assert {"$ref": "#/components/parameters/X-Request-ID"} in parameters, path
        for response in operation["responses"].values():
            assert "X-Request-ID" in response["headers"], path


# --- answers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, template",
    [
        ("/usage", "/usage"),
        ("/usage?limit=1", "/v1/usage"),
        ("/usage/daily", "/usage/daily"),
        ("/usage/reports", "/usage/reports"),
        ("/usage/plans", "/usage/plans"),
        ("/usage/forecast", "/usage/forecast"),
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
    document: JsonObject,
    path: str,
    template: str,
) -> None:
    """The actual answer matches the schema."""
    sandbox.sandbox.set_messages([message(1), message(2, report_id=7)])
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    answer = await (await client()).get(path)
    promised = document["paths"][template]["get"]["responses"]["200"]
    schema = promised["content"][answer.content_type]["schema"]
    assert faults_of(document, schema, await answer.json()) == []


# --- problems -----------------------------------------------------------------------


def test_declared_problems_are_documented(document: JsonObject) -> None:
    """Every code that a handler may answer stands under its status."""
    for endpoint in (*usage.endpoints, *events.endpoints):
        for path, kind in product(endpoint.paths, endpoint.problems):
            # The document has no patterns of variables.
            template = web.DynamicResource(path).canonical
            operation = document["paths"][template][endpoint.method.lower()]
            assert kind.code in codes(operation, kind.status), (path, kind)


def test_operations_with_a_key_have_security(document: JsonObject) -> None:
    """Operations whose scope needs a key have its schemes, and no others have."""
    schemes = document["components"]["securitySchemes"]
    for path, _, operation in operations(document):
        needed = [name for each in operation.get("security", []) for name in each]
        assert bool(needed) == (operation.get("x-scope") in ALWAYS_REQUIRED), path
        ways = (
            list(schemes)
            if operation.get("x-scope") == PUBLIC_SCOPE
            else ["bearer", "key"]
        )
        assert not needed or needed == ways
        assert not needed or codes(operation, 401) == ["unauthorized"]
    key = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    assert schemes["key"].items() >= key.items()


def test_a_body_has_the_schema_of_its_decoder(document: JsonObject) -> None:
    """The example matches the schema, alone and in a list; wrong events do not."""
    body = document["paths"]["/events"]["post"]["requestBody"]
    content = body["content"]["application/json"]
    assert body["required"] is True
    assert body["content"]["application/x-ndjson"] == {"schema": {"type": "string"}}
    example = content["example"]
    assert faults_of(document, content["schema"], example) == []
    assert faults_of(document, content["schema"], [example, example]) == []
    for wrong in ({**example, "session_id": ""}, {**example, "colour": "red"}, 1):
        assert faults_of(document, content["schema"], wrong)


async def test_live_outage_is_documented(
    client: MakeClient, sandbox: RunningSandbox, document: JsonObject
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


def test_every_code_of_the_contract_has_an_example(document: JsonObject) -> None:
    """Codes of unknown paths and methods are listed too."""
    contract = {*PROBLEM_KINDS.values(), problems.INTERNAL_ERROR}
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
def generated() -> JsonObject:
    """The document of two small endpoints."""
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


def test_docstring_is_summary_and_description(generated: JsonObject) -> None:
    """The first paragraph of the handler's docstring sums up, the rest describes."""
    operation = generated["paths"]["/things/{thing}"]["get"]
    assert operation["summary"] == "One thing."
    assert operation["description"] == "A second paragraph, that is longer."
    undescribed = generated["paths"]["/file"]["get"]
    assert undescribed["summary"] == ""
    assert "description" not in undescribed


def test_parameters_have_requirement_and_default(
    generated: JsonObject,
) -> None:
    """A field without default is required; null is omitted."""
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


def test_answers_require_members_that_are_always_sent(generated: JsonObject) -> None:
    """Only members that may be UNSET are optional."""
    schemas = generated["components"]["schemas"]
    assert schemas["Part"]["required"] == ["name"]
    assert schemas["Whole"]["required"] == ["parts"]


def test_an_undeclared_answer_may_be_any_json(generated: JsonObject) -> None:
    """Without a declared type the schema is empty."""
    answer = generated["paths"]["/file"]["get"]["responses"]["200"]
    assert answer["content"] == {"application/json": {"schema": {}}}
    assert answer["description"] == "OK"
