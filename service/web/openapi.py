"""The OpenAPI 3.1 document, generated from the declarations of endpoints.

Each function generates one object of the specification. Schemas are those of the
structs that decode and encode, so they cannot differ from the code.
"""

import inspect
import re
import sys
from collections.abc import Set as AbstractSet
from functools import partial
from importlib.metadata import metadata
from typing import Final

from aiohttp import web

from service.web import docs
from service.web.credentials import API_KEY, PUBLIC_SCOPE
from service.web.openapi_problems import (
    EXAMPLE_ID,
    all_problems,
    describe_headers,
    problem_answers,
    problem_example,
)
from service.web.openapi_schemas import JsonObject, Schemas
from service.web.problems import ProblemKind
from service.web.request_context import REQUEST_ID_HEADER
from service.web.routes import Endpoint, Endpoints, RequestBody
from service.web.system import NAME, VERSION

OPENAPI_VERSION: Final = "3.1.0"

SECURITY_SCHEMES: Final[dict[str, JsonObject]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key. One way to send it is enough.",
    },
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": API_KEY,
        "description": "An API key, in a header of its own.",
    },
}
"""The ways to send any API key."""
PUBLIC_SCHEMES: Final[dict[str, JsonObject]] = {
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "The key is the user; the password is ignored.",
    },
}
"""Further ways to send a key that everybody may know, beside the query's `key`."""

_PRELUDE: Final = (
    f"Every `GET` also supports `HEAD`. Every answer has `{REQUEST_ID_HEADER}`. "
    "Errors are problem documents (RFC 9457). Their `code` is part of the contract, "
    "while their wording may change."
)


def add_documentation(
    app: web.Application, endpoints: Endpoints, required: AbstractSet[str]
) -> None:
    """Serve `/openapi.json` and `/docs`, which also describe themselves.

    `required` are the scopes that need a key.
    """
    described = Endpoints([*endpoints, *docs.endpoints])
    app[docs.DOCUMENTATION] = docs.Documentation(partial(describe, described, required))
    app.add_routes(docs.endpoints.routes())
    app.add_routes(docs.file_routes())


def describe(
    endpoints: Endpoints, required: AbstractSet[str] = frozenset()
) -> JsonObject:
    """Return the OpenAPI document of the endpoints.

    `required` are the scopes that need a key.
    """
    schemas = Schemas.of(endpoints)
    paths: dict[str, JsonObject] = {}
    for endpoint in endpoints:
        for path in endpoint.paths:
            item = paths.setdefault(_template(path), {})
            item[endpoint.method.lower()] = _operation(
                endpoint, path, schemas, needs_key=endpoint.scope in required
            )
    return {
        "openapi": OPENAPI_VERSION,
        "info": _info(),
        "tags": _tags(endpoints),
        "paths": paths,
        "components": _components(schemas, all_problems(endpoints)),
    }


def _info() -> JsonObject:
    summary = metadata(NAME)["Summary"]
    return {
        "title": NAME.replace("-", " ").capitalize(),
        "version": VERSION,
        "description": f"{summary}\n\n{_PRELUDE}",
    }


def _tags(endpoints: Endpoints) -> list[JsonObject]:
    modules = {_tag(each): sys.modules[each.handler.__module__] for each in endpoints}
    return [
        {"name": tag, "description": _paragraphs(module)[0]}
        for tag, module in modules.items()
    ]


def _tag(endpoint: Endpoint) -> str:
    """Return the module's `TAG`; without one, the name of its domain or its own."""
    name = endpoint.handler.__module__
    *_, package, module = name.split(".")
    default = package if module == "handlers" else module
    return str(getattr(sys.modules[name], "TAG", default))


def _template(path: str) -> str:
    """Return a path without the patterns of its variables."""
    return web.DynamicResource(path).canonical


def _operation(
    endpoint: Endpoint, path: str, schemas: Schemas, *, needs_key: bool
) -> JsonObject:
    summary, *description = _paragraphs(endpoint.handler)
    operation: JsonObject = {
        "operationId": _operation_id(endpoint, path),
        "tags": [_tag(endpoint)],
        # The summary is plain text, while descriptions are Markdown.
        "summary": summary.replace("`", ""),
    }
    if description:
        operation["description"] = "\n\n".join(description)
    if path != endpoint.paths[0]:
        operation["x-alias-of"] = endpoint.name
    operation["parameters"] = _parameters(endpoint, path, schemas)
    if endpoint.scope is not None:
        operation["x-scope"] = endpoint.scope
    if needs_key:
        # The list has the roles that a key needs.
        is_public = endpoint.scope == PUBLIC_SCOPE
        names = (*SECURITY_SCHEMES, *(PUBLIC_SCHEMES if is_public else ()))
        operation["security"] = [{name: [endpoint.scope]} for name in names]
    if endpoint.body is not None:
        operation["requestBody"] = _request_body(endpoint.body, schemas)
    operation["responses"] = {
        str(int(endpoint.status)): _answer(endpoint, schemas),
        **_other_answers(endpoint, schemas),
        **problem_answers(endpoint, needs_key=needs_key),
    }
    return operation


def _operation_id(endpoint: Endpoint, path: str) -> str:
    """Return the endpoint's name; the id of an alias also contains its path."""
    if path == endpoint.paths[0]:
        return endpoint.name
    return f"{endpoint.name}_at_{re.sub(r'[^A-Za-z0-9]+', '_', path).strip('_')}"


def _paragraphs(described: object) -> list[str]:
    """Return the docstring's paragraphs, each on one line; at least one."""
    text = inspect.getdoc(described) or ""
    return [" ".join(each.split()) for each in text.split("\n\n")]


def _parameters(endpoint: Endpoint, path: str, schemas: Schemas) -> list[JsonObject]:
    schema = schemas.resolve(endpoint.parameters)
    return [
        *(_path_parameter(name) for name in re.findall(r"{(\w+)}", _template(path))),
        *(
            _query_parameter(name, each, is_required=name in schema["required"])
            for name, each in schema["properties"].items()
        ),
        {"$ref": f"#/components/parameters/{REQUEST_ID_HEADER}"},
    ]


def _path_parameter(name: str) -> JsonObject:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameter(name: str, schema: JsonObject, *, is_required: bool) -> JsonObject:
    parameter: JsonObject = {"name": name, "in": "query", "required": is_required}
    if "description" in schema:
        parameter["description"] = schema["description"]
    return parameter | {"schema": _query_schema(schema)}


def _query_schema(schema: JsonObject) -> JsonObject:
    """Return the schema of a parameter that is present: no null, no empty text."""
    dropped = ("description", "anyOf")
    plain = {name: each for name, each in schema.items() if name not in dropped}
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if plain.get("default", ...) is None:
        del plain["default"]
    if len(choices) > 1:
        return plain | {"anyOf": choices}
    plain |= dict(*choices)
    return {"minLength": 1} | plain if plain.get("type") == "string" else plain


def _answer(endpoint: Endpoint, schemas: Schemas) -> JsonObject:
    schema: JsonObject = {}
    if endpoint.answer is not None:
        schema = schemas.resolve(endpoint.answer)
    return {
        "description": schema.get("description", endpoint.status.phrase),
        "headers": describe_headers(endpoint.headers),
        "content": {
            media_type: {"schema": _body_schema(endpoint, media_type, schemas)}
            for media_type in endpoint.media_types
        },
    }


def _other_answers(endpoint: Endpoint, schemas: Schemas) -> JsonObject:
    """Return the answers of further statuses, which have the same type."""
    content = {
        each: {"schema": _body_schema(endpoint, each, schemas)}
        for each in endpoint.media_types
    }
    return {
        str(int(status)): {
            "description": description,
            "headers": describe_headers({}),
            "content": content,
        }
        for status, description in endpoint.other_statuses.items()
    }


def _body_schema(endpoint: Endpoint, media_type: str, schemas: Schemas) -> JsonObject:
    if not media_type.endswith(("/json", "+json")):
        return {"type": "string"}
    return schemas.references.get(endpoint.answer, {})


def _request_body(body: RequestBody, schemas: Schemas) -> JsonObject:
    return {
        "description": body.description,
        "required": body.is_required,
        "content": {
            media_type: {"schema": {"type": "string"}}
            if kind is None
            else {"schema": schemas.references[kind], "example": body.example}
            for media_type, kind in body.media_types.items()
        },
    }


def _components(schemas: Schemas, kinds: list[ProblemKind]) -> JsonObject:
    return {
        "schemas": schemas.published(),
        "securitySchemes": SECURITY_SCHEMES | PUBLIC_SCHEMES,
        "parameters": {REQUEST_ID_HEADER: _request_id_parameter()},
        "headers": {
            REQUEST_ID_HEADER: {
                "description": "Id of the request in the log, sent by you or new.",
                "schema": {"type": "string", "examples": [EXAMPLE_ID]},
            },
            "Retry-After": {
                "description": "Seconds to wait before the next try.",
                "schema": {"type": "integer", "minimum": 1},
            },
        },
        "examples": {kind.code: problem_example(kind) for kind in kinds},
    }


def _request_id_parameter() -> JsonObject:
    return {
        "name": REQUEST_ID_HEADER,
        "in": "header",
        "required": False,
        "description": "Request id for the log. At most 128 letters, digits and "
        "`._~+/=:-`; any other id is replaced.",
        "schema": {"type": "string", "examples": [EXAMPLE_ID]},
    }
