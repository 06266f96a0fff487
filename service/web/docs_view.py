"""The OpenAPI document as people read it: operations, their fields, commands to try.

It reads nothing but the document, so the page can't tell anything else than that.
"""

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

Json = dict[str, Any]

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
    """`required` or `optional`; empty where it goes without saying."""
    description: str
    members: list["Field"]


class Answer(NamedTuple):
    """What an operation answers when all is well."""

    description: str
    media_types: list[str]
    headers: list[Field]
    members: list[Field]


class RequestBody(NamedTuple):
    """What an operation takes."""

    description: str
    media_types: list[str]
    members: list[Field]


class Operation(NamedTuple):
    """One operation, once for all its paths."""

    id: str
    tag: str
    method: str
    path: str
    aliases: list[str]
    summary: str
    description: str
    needs_key: bool
    parameters: list[Field]
    body: RequestBody | None
    answer: Answer
    problems: list[tuple[str, str]]
    """Status and code of each."""
    commands: list[str]


class View:
    """Reads one document; `host` is what its commands call."""

    def __init__(self, document: Json, host: str) -> None:
        self._document = document
        self._host = host

    def operations(self) -> list[Operation]:
        """All that are no other's alias, in the document's order."""
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
        """Those that the document declares once, for all operations."""
        shared = self._document["components"]["parameters"]
        return [self._parameter(each) for each in shared.values()]

    def shared_headers(self) -> list[Field]:
        """The answers' headers that the document declares once."""
        shared: Json = self._document["components"]["headers"]
        return [self._header(name, each) for name, each in shared.items()]

    def _operation(self, path: str, method: str, operation: Json) -> Operation:
        responses = operation["responses"]
        return Operation(
            id=operation["operationId"],
            tag=operation["tags"][0],
            method=method.upper(),
            path=path,
            aliases=list(self._aliases(operation["operationId"])),
            summary=operation["summary"],
            description=operation.get("description", ""),
            needs_key="security" in operation,
            parameters=[self._parameter(each) for each in _own(operation)],
            body=self._body(operation),
            answer=self._answer(_good(responses)),
            problems=list(_problems(responses)),
            commands=list(self._commands(path, method, operation)),
        )

    def _aliases(self, operation_id: str) -> Iterator[str]:
        for path, item in self._document["paths"].items():
            if any(each.get("x-alias-of") == operation_id for each in item.values()):
                yield path

    def _parameter(self, parameter: Json) -> Field:
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

    def _header(self, name: str, header: Json) -> Field:
        return Field(name, self._kind(header["schema"]), "", header["description"], [])

    def _body(self, operation: Json) -> RequestBody | None:
        body = operation.get("requestBody")
        if body is None:
            return None
        schema = body["content"].get(JSON_MEDIA_TYPE, {}).get("schema", {})
        return RequestBody(
            description=body["description"],
            media_types=list(body["content"]),
            members=list(self._members(schema)),
        )

    def _answer(self, response: Json) -> Answer:
        schema = response["content"].get(JSON_MEDIA_TYPE, {}).get("schema", {})
        return Answer(
            description=response["description"],
            media_types=list(response["content"]),
            headers=[
                self._header(name, each)
                for name, each in response["headers"].items()
                if "$ref" not in each
            ],
            members=list(self._members(schema)),
        )

    def _members(self, schema: Json) -> Iterator[Field]:
        """The members of an object, or of the objects in an array."""
        schema = self._follow(schema)
        # Of one or many it is the one.
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

    def _description(self, schema: Json) -> str:
        """A member's own description, or that of what it holds."""
        target = self._follow(schema)
        inner = self._follow(target.get("items", target))
        return str(target.get("description") or inner.get("description", ""))

    def _kind(self, schema: Json) -> str:
        """The schema in words: `integer, at least 1, at most 100000`."""
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

    def _commands(self, path: str, method: str, operation: Json) -> Iterator[str]:
        """How to ask with curl: plainly if one can, with examples, for other types."""
        # Braces would be curl's own patterns.
        plain = self._host + path.replace("{", "<").replace("}", ">")
        curl = "curl"
        if "security" in operation:
            curl += " -H 'Authorization: Bearer <key>'"
        if "requestBody" in operation:
            content = operation["requestBody"]["content"][JSON_MEDIA_TYPE]
            yield f"{curl} '{plain}' --json '{json.dumps(content['example'])}'"
            return
        if method != "get":
            curl += f" -X {method.upper()}"
        own = _own(operation)
        examples = {
            each["name"]: each["schema"]["examples"][0]
            for each in own
            if "examples" in each["schema"]
        }
        if not any(each["required"] and each["in"] == "query" for each in own):
            yield f"{curl} '{plain}'"
        if examples:
            yield f"{curl} '{plain}?{urlencode(examples, safe=':;,')}'"
        for media_type in list(_good(operation["responses"])["content"])[1:]:
            yield f"{curl} -H 'Accept: {media_type}' '{plain}'"

    def _follow(self, node: Json) -> Json:
        """What a `$ref` points to; any other node itself."""
        if "$ref" not in node:
            return node
        target: Any = self._document
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return {**target, **{k: v for k, v in node.items() if k != "$ref"}}


def _good(responses: Json) -> Json:
    """The answer when all is well."""
    return next(each for status, each in responses.items() if status.startswith("2"))


def _own(operation: Json) -> list[Json]:
    """The parameters of this operation alone."""
    return [each for each in operation["parameters"] if "$ref" not in each]


def _problems(responses: Json) -> Iterator[tuple[str, str]]:
    for status, response in responses.items():
        for content in response["content"].values():
            yield from ((status, code) for code in content.get("examples", {}))
