"""The OpenAPI 3.1 document, generated from the endpoints' declarations alone.

Each function describes one object of the specification. Schemas come from the structs
that decode and encode, so the document cannot promise what the code does not do.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import metadata
from typing import Any, Final, NamedTuple, get_args

import msgspec
from aiohttp import web

from service.web import docs, problems
from service.web.context import REQUEST_ID_HEADER
from service.web.index import NAME, VERSION
from service.web.limits import API_KEY, is_exempt
from service.web.problems import Problem, ProblemKind
from service.web.routes import Body, Endpoint, Endpoints, OwnQuery

Json = dict[str, Any]

OPENAPI_VERSION: Final = "3.1.0"
REFUSALS: Final = (problems.INVALID_PARAMETER,)
"""What every operation may answer that reads its query."""
LIMITS: Final = (problems.OVERLOADED, problems.RATE_LIMITED)
"""What every operation may answer that limits apply to (`limits.is_exempt`)."""

SECURITY_SCHEMES: Final[dict[str, Json]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": API_KEY},
}
"""The two ways to send an application's key."""

_SCHEMAS: Final = "#/components/schemas/"
_EXAMPLES: Final = "#/components/examples/"
_EXAMPLE_ID: Final = "7d9f2c51e0b84f6f"
_PRELUDE: Final = (
    f"Every `GET` answers `HEAD` too. Every answer carries `{REQUEST_ID_HEADER}`. "
    "Errors are problem documents (RFC 9457); their `code` is part of the contract "
    "and stays, their wording may change."
)


def add_documentation(app: web.Application, endpoints: Endpoints) -> None:
    """Serve `/openapi.json` and `/docs`, which describe the endpoints and themselves.

    Both are made here, once: a declaration that cannot be described stops the start.
    """
    document = describe(Endpoints([*endpoints, *docs.endpoints]))
    app[docs.DOCUMENT] = msgspec.json.encode(document)
    app[docs.PAGE] = docs.render(document)
    app.add_routes(docs.endpoints.routes())


def describe(endpoints: Endpoints) -> Json:
    """The OpenAPI document of all the endpoints."""
    schemas = Schemas.of(endpoints)
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        for path in endpoint.paths:
            item = paths.setdefault(_template(path), {})
            item[endpoint.method.lower()] = _operation(endpoint, path, schemas)
    return {
        "openapi": OPENAPI_VERSION,
        "info": _info(),
        "tags": _tags(endpoints),
        "paths": paths,
        "components": _components(schemas),
    }


class Schemas(NamedTuple):
    """The schemas of all types that endpoints name: by type, and as components."""

    references: dict[Any, Json]
    components: dict[str, Json]
    parameters: frozenset[str]
    """Components that are spread into parameters, so never published themselves."""

    @classmethod
    def of(cls, endpoints: Endpoints) -> "Schemas":
        """The schemas of the endpoints' parameters and bodies, and of problems."""
        parameters = [each.parameters for each in endpoints]
        answers = [each.answer for each in endpoints if each.answer is not None]
        bodies = [kind for each in endpoints for kind in _body_types(each.body)]
        structs = list(_structs(answers))
        types = list(dict.fromkeys([*parameters, *answers, *bodies, *structs, Problem]))
        references, components = msgspec.json.schema_components(
            types, ref_template=_SCHEMAS + "{name}"
        )
        by_type = dict(zip(types, references, strict=True))
        names = frozenset(_component_name(by_type[each]) for each in parameters)
        schemas = cls(by_type, components, names)
        for struct in structs:
            schemas.resolve(struct)["required"] = _always_sent(struct)
        return schemas

    def resolve(self, kind: Any) -> Json:
        """The schema of a type itself, where `references` only points to it."""
        reference = self.references[kind]
        return self.components.get(_component_name(reference), reference)

    def published(self) -> dict[str, Json]:
        """What stands under `components`, by name."""
        names = sorted(self.components.keys() - self.parameters)
        return {name: self.components[name] for name in names}


def _body_types(body: Body | None) -> list[Any]:
    """The types of a request's body, where it is JSON."""
    kinds = body.media_types.values() if body else ()
    return [kind for kind in kinds if kind is not None]


def _component_name(reference: Json) -> str:
    return str(reference.get("$ref", "")).removeprefix(_SCHEMAS)


def _always_sent(struct: type[msgspec.Struct]) -> list[str]:
    """The members of an answer that can't be UNSET.

    msgspec itself says what decoding needs: there, a default makes one optional.
    """
    return [
        field.encode_name
        for field in msgspec.structs.fields(struct)
        if msgspec.UnsetType not in get_args(field.type)
    ]


def _structs(types: Iterable[Any]) -> Iterator[type[msgspec.Struct]]:
    """All structs among the types and inside them."""
    for kind in types:
        if inspect.isclass(kind) and issubclass(kind, msgspec.Struct):
            yield kind
            yield from _structs(each.type for each in msgspec.structs.fields(kind))
        yield from _structs(get_args(kind))


def _info() -> Json:
    summary = metadata(NAME)["Summary"]
    return {
        "title": NAME.replace("-", " ").capitalize(),
        "version": VERSION,
        "description": f"{summary}\n\n{_PRELUDE}",
    }


def _tags(endpoints: Endpoints) -> list[Json]:
    modules = {_tag(each): sys.modules[each.handler.__module__] for each in endpoints}
    return [
        {"name": tag, "description": _paragraphs(module)[0]}
        for tag, module in modules.items()
    ]


def _tag(endpoint: Endpoint) -> str:
    """The domain's name, or the module's where it is no domain's handlers."""
    *_, package, module = endpoint.handler.__module__.split(".")
    return package if module == "handlers" else module


def _template(path: str) -> str:
    """The path as the router understands it, without patterns of its variables."""
    return web.DynamicResource(path).canonical


def _operation(endpoint: Endpoint, path: str, schemas: Schemas) -> Json:
    summary, *description = _paragraphs(endpoint.handler)
    operation: Json = {
        "operationId": _operation_id(endpoint, path),
        "tags": [_tag(endpoint)],
        "summary": summary,
    }
    if description:
        operation["description"] = "\n\n".join(description)
    if path != endpoint.paths[0]:
        operation["x-alias-of"] = endpoint.name
    operation["parameters"] = _parameters(endpoint, path, schemas)
    if endpoint.needs_key:
        operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
    if endpoint.body is not None:
        operation["requestBody"] = _request_body(endpoint.body, schemas)
    operation["responses"] = {
        str(int(endpoint.status)): _answer(endpoint, schemas),
        **_other_answers(endpoint),
        **_problem_answers(endpoint),
    }
    return operation


def _operation_id(endpoint: Endpoint, path: str) -> str:
    """The endpoint's name; the path is part of an alias's id."""
    if path == endpoint.paths[0]:
        return endpoint.name
    return f"{endpoint.name}_at_{re.sub(r'[^A-Za-z0-9]+', '_', path).strip('_')}"


def _paragraphs(described: object) -> list[str]:
    """The docstring's paragraphs, each on one line; never none."""
    text = inspect.getdoc(described) or ""
    return [" ".join(each.split()) for each in text.split("\n\n")]


def _parameters(endpoint: Endpoint, path: str, schemas: Schemas) -> list[Json]:
    schema = schemas.resolve(endpoint.parameters)
    return [
        *(_path_parameter(name) for name in re.findall(r"{(\w+)}", _template(path))),
        *(
            _query_parameter(name, each, is_required=name in schema["required"])
            for name, each in schema["properties"].items()
        ),
        {"$ref": f"#/components/parameters/{REQUEST_ID_HEADER}"},
    ]


def _path_parameter(name: str) -> Json:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameter(name: str, schema: Json, *, is_required: bool) -> Json:
    parameter: Json = {"name": name, "in": "query", "required": is_required}
    if "description" in schema:
        parameter["description"] = schema["description"]
    return parameter | {"schema": _query_schema(schema)}


def _query_schema(schema: Json) -> Json:
    """The schema without null and empty text: one leaves the parameter out."""
    dropped = ("description", "anyOf")
    plain = {name: each for name, each in schema.items() if name not in dropped}
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if plain.get("default", ...) is None:
        del plain["default"]
    if len(choices) > 1:
        return plain | {"anyOf": choices}
    plain |= dict(*choices)
    return {"minLength": 1} | plain if plain.get("type") == "string" else plain


def _answer(endpoint: Endpoint, schemas: Schemas) -> Json:
    schema: Json = {}
    if endpoint.answer is not None:
        schema = schemas.resolve(endpoint.answer)
    return {
        "description": schema.get("description", endpoint.status.phrase),
        "headers": _headers(endpoint.headers),
        "content": {
            media_type: {"schema": _body_schema(endpoint, media_type, schemas)}
            for media_type in endpoint.media_types
        },
    }


def _other_answers(endpoint: Endpoint) -> Json:
    """Answers of other statuses that are no problems, as text."""
    content = {each: {"schema": {"type": "string"}} for each in endpoint.media_types}
    return {
        str(int(status)): {
            "description": description,
            "headers": _headers({}),
            "content": content,
        }
        for status, description in endpoint.also.items()
    }


def _body_schema(endpoint: Endpoint, media_type: str, schemas: Schemas) -> Json:
    if not media_type.endswith(("/json", "+json")):
        return {"type": "string"}
    return schemas.references.get(endpoint.answer, {})


def _request_body(body: Body, schemas: Schemas) -> Json:
    return {
        "description": body.description,
        "required": True,
        "content": {
            media_type: {"schema": {"type": "string"}}
            if kind is None
            else {"schema": schemas.references[kind], "example": body.example}
            for media_type, kind in body.media_types.items()
        },
    }


def _headers(described: dict[str, str]) -> Json:
    return {
        **{
            name: {"description": description, "schema": {"type": "string"}}
            for name, description in described.items()
        },
        REQUEST_ID_HEADER: {"$ref": f"#/components/headers/{REQUEST_ID_HEADER}"},
    }


def _problem_answers(endpoint: Endpoint) -> Json:
    """One answer for each status, whatever the number of problems behind it."""
    by_status: dict[int, list[ProblemKind]] = {}
    limits = () if all(map(is_exempt, endpoint.paths)) else LIMITS
    refusals = () if endpoint.parameters is OwnQuery else REFUSALS
    common = (*refusals, problems.INTERNAL_ERROR, *limits)
    for kind in dict.fromkeys((*endpoint.problems, *common)):
        by_status.setdefault(int(kind.status), []).append(kind)
    return {
        str(status): _problem_answer(status, by_status[status])
        for status in sorted(by_status)
    }


def _problem_answer(status: int, kinds: list[ProblemKind]) -> Json:
    codes = [kind.code for kind in kinds]
    narrowed = {"properties": {"code": {"enum": codes}, "status": {"const": status}}}
    headers = _headers({})
    if status in problems.TEMPORARY:
        headers["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
    return {
        "description": ". ".join(f"`{kind.code}`: {kind.title}" for kind in kinds),
        "headers": headers,
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"allOf": [{"$ref": f"{_SCHEMAS}Problem"}, narrowed]},
                "examples": {code: {"$ref": _EXAMPLES + code} for code in codes},
            }
        },
    }


def _components(schemas: Schemas) -> Json:
    return {
        "schemas": schemas.published(),
        "securitySchemes": SECURITY_SCHEMES,
        "parameters": {REQUEST_ID_HEADER: _request_id_parameter()},
        "headers": {
            REQUEST_ID_HEADER: {
                "description": "The request's id in the log: yours, or a new one.",
                "schema": {"type": "string", "examples": [_EXAMPLE_ID]},
            },
            "Retry-After": {
                "description": "Seconds to wait before the next try.",
                "schema": {"type": "integer", "minimum": 1},
            },
        },
        "examples": {kind.code: _problem_example(kind) for kind in _all_problems()},
    }


def _request_id_parameter() -> Json:
    return {
        "name": REQUEST_ID_HEADER,
        "in": "header",
        "required": False,
        "description": "Your own id of the request, for the log. At most 128 letters, "
        "digits and `._~+/=:-`, or it is replaced.",
        "schema": {"type": "string", "examples": [_EXAMPLE_ID]},
    }


def _all_problems() -> list[ProblemKind]:
    """The whole contract, so also what is answered where no operation is."""
    kinds = (each for each in vars(problems).values() if isinstance(each, ProblemKind))
    return sorted(kinds, key=lambda kind: (kind.status, kind.code))


def _problem_example(kind: ProblemKind) -> Json:
    problem = Problem(
        type=problems.TYPE_PREFIX + kind.code,
        title=kind.title,
        status=kind.status,
        detail="What was wrong this time.",
        code=kind.code,
        request_id=_EXAMPLE_ID,
    )
    return {"summary": kind.title, "value": msgspec.to_builtins(problem)}
