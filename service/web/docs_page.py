"""The OpenAPI document in the form of its page: operations, fields and commands."""

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

JsonObject = dict[str, Any]

JSON_MEDIA_TYPE: Final = "application/json"

_LIMITS: Final = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "maxLength": "at most {} characters",
}


class Field(NamedTuple):
    """A parameter, a header or a member of an answer, with its own members."""

    name: str
    kind: str
    presence: str
    """`required` or `optional`; empty if that is the default of the list."""
    description: str
    members: list["Field"]


class ApiAnswer(NamedTuple):
    """The successful answer of an operation."""

    description: str
    media_types: list[str]
    headers: list[Field]
    members: list[Field]


class ApiBody(NamedTuple):
    """The request body of an operation."""

    description: str
    media_types: list[str]
    members: list[Field]


class Operation(NamedTuple):
    """One operation, with all its paths."""

    id: str
    tag: str
    method: str
    path: str
    aliases: list[str]
    summary: str
    description: str
    scope: str
    """The scope that a key needs; empty if the operation needs none."""
    needs_key: bool
    """The settings require a key for this scope."""
    parameters: list[Field]
    body: ApiBody | None
    answer: ApiAnswer
    problems: list[tuple[str, str]]
    """The status and code of each problem."""
    commands: list[str]


class PageView:
    """Converts a document; `host` is the host in its commands."""

    def __init__(self, document: JsonObject, host: str) -> None:
        self._document = document
        self._host = host

    def operations(self) -> list[Operation]:
        """Return the operations without aliases, in the order of the document."""
        found = [
            (path, method, each)
            for path, item in self._document["paths"].items()
            for method, each in item.items()
        ]
        return [
            self._operation(path, method, each)
            for path, method, each in found
            if "x-alias-of" not in each
        ]

    def shared_parameters(self) -> list[Field]:
        """Return the parameters that all operations share."""
        shared = self._document["components"]["parameters"]
        return [self._parameter(each) for each in shared.values()]

    def shared_headers(self) -> list[Field]:
        """Return the headers that all answers share."""
        shared: JsonObject = self._document["components"]["headers"]
        return [self._header(name, each) for name, each in shared.items()]

    def _operation(self, path: str, method: str, operation: JsonObject) -> Operation:
        responses = operation["responses"]
        return Operation(
            id=operation["operationId"],
            tag=operation["tags"][0],
            method=method.upper(),
            path=path,
            aliases=list(self._aliases(operation["operationId"])),
            summary=operation["summary"],
            description=operation.get("description", ""),
            scope=operation.get("x-scope", ""),
            needs_key="security" in operation,
            parameters=[self._parameter(each) for each in _own(operation)],
            body=self._body(operation),
            answer=self._answer(_good(responses)),
            problems=list(_problems(responses)),
            commands=list(_commands(self._host + path, method, operation)),
        )

    def _aliases(self, operation_id: str) -> Iterator[str]:
        for path, item in self._document["paths"].items():
            if any(each.get("x-alias-of") == operation_id for each in item.values()):
                yield path

    def _parameter(self, parameter: JsonObject) -> Field:
        schema = parameter["schema"]
        kind = self._kind(schema)
        if parameter["in"] == "path":
            kind += ", in the path"
        if "default" in schema:
            kind += f", {schema['default']} by default"
        return Field(
            name=parameter["name"],
            kind=kind,
            presence="required" if parameter["required"] else "",
            description=parameter.get("description", ""),
            members=[],
        )

    def _header(self, name: str, header: JsonObject) -> Field:
        return Field(name, self._kind(header["schema"]), "", header["description"], [])

    def _body(self, operation: JsonObject) -> ApiBody | None:
        body = operation.get("requestBody")
        if body is None:
            return None
        schema = body["content"].get(JSON_MEDIA_TYPE, {}).get("schema", {})
        return ApiBody(
            description=body["description"],
            media_types=list(body["content"]),
            members=list(self._members(schema)),
        )

    def _answer(self, response: JsonObject) -> ApiAnswer:
        schema = response["content"].get(JSON_MEDIA_TYPE, {}).get("schema", {})
        return ApiAnswer(
            description=response["description"],
            media_types=list(response["content"]),
            headers=[
                self._header(name, each)
                for name, each in response["headers"].items()
                if "$ref" not in each
            ],
            members=list(self._members(schema)),
        )

    def _members(self, schema: JsonObject) -> Iterator[Field]:
        """Yield the members of an object, or of the objects in an array."""
        schema = self._follow(schema)
        # The first of several types: an object, and not an array of such objects.
        schema = self._follow(next(iter(schema.get("anyOf", ())), schema))
        schema = self._follow(schema.get("items", schema))
        for name, member in schema.get("properties", {}).items():
            yield Field(
                name=name,
                kind=self._kind(member),
                presence="" if name in schema["required"] else "optional",
                description=self._description(member),
                members=list(self._members(member)),
            )

    def _description(self, schema: JsonObject) -> str:
        """Return the description of a member, or of its items."""
        target = self._follow(schema)
        inner = self._follow(target.get("items", target))
        return str(target.get("description") or inner.get("description", ""))

    def _kind(self, schema: JsonObject) -> str:
        """Return a schema in words: `integer, at least 1, at most 100000`."""
        schema = self._follow(schema)
        if "anyOf" in schema:
            return " or ".join(self._kind(each) for each in schema["anyOf"])
        words = " or ".join(str(each) for each in schema.get("enum", ()))
        words = words or schema.get("type", "anything")
        inner = schema.get("items") or schema.get("additionalProperties")
        if inner:
            words = f"{words} of {self._kind(inner)}"
        limits = [_LIMITS[key].format(schema[key]) for key in _LIMITS if key in schema]
        return ", ".join([words, *limits])

    def _follow(self, node: JsonObject) -> JsonObject:
        """Return a node, with its `$ref` resolved."""
        if "$ref" not in node:
            return node
        target: Any = self._document
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return {**target, **{k: v for k, v in node.items() if k != "$ref"}}


def _commands(url: str, method: str, operation: JsonObject) -> Iterator[str]:
    """Yield curl commands: a plain one, one with examples, one for each other type."""
    url = url.replace("{", "<").replace("}", ">")  # braces are patterns of curl
    curl = "curl"
    if "security" in operation:
        curl += " -H 'Authorization: Bearer <key>'"
    if "requestBody" in operation:
        content = operation["requestBody"]["content"][JSON_MEDIA_TYPE]
        yield f"{curl} '{url}' --json '{json.dumps(content['example'])}'"
        return
    if method != "get":
        curl += f" -X {method.upper()}"
    own = _own(operation)
    if not any(each["required"] and each["in"] == "query" for each in own):
        yield f"{curl} '{url}'"
    if examples := dict(_examples(own)):
        yield f"{curl} '{url}?{urlencode(examples, safe=':;,')}'"
    for media_type in list(_good(operation["responses"])["content"])[1:]:
        yield f"{curl} -H 'Accept: {media_type}' '{url}'"


def _examples(parameters: list[JsonObject]) -> Iterator[tuple[str, Any]]:
    for each in parameters:
        if "examples" in each["schema"]:
            yield each["name"], each["schema"]["examples"][0]


def _good(responses: JsonObject) -> JsonObject:
    """Return the successful answer."""
    return next(each for status, each in responses.items() if status.startswith("2"))


def _own(operation: JsonObject) -> list[JsonObject]:
    """Return the parameters that are not shared with other operations."""
    return [each for each in operation["parameters"] if "$ref" not in each]


def _problems(responses: JsonObject) -> Iterator[tuple[str, str]]:
    for status, response in responses.items():
        for content in response["content"].values():
            yield from ((status, code) for code in content.get("examples", {}))
