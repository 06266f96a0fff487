"""Declaration of endpoints at their handlers: path, parameters and answers.

A handler takes the request and its parameters, decoded into a struct. The router and
the OpenAPI document use the same declaration, so they cannot differ.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Annotated, Any, Final, NamedTuple, TypedDict, TypeVar, Unpack, cast

import msgspec
from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from multidict import MultiMapping

from service.settings import Scope
from service.web.auth import authorize
from service.web.http_cache.responses import BlockResponse, keeps_connection
from service.web.large_answers import MAX_BLOCK_BYTES
from service.web.limits import rate_lines
from service.web.page_headers import NO_SNIFFING
from service.web.parameters import InvalidParameter
from service.web.problems import HAS_MESSAGE, ProblemKind
from service.web.request_context import REQUEST_ID, REQUEST_ID_HEADER

ANNOTATIONS: Final = frozenset({"description", "examples", "title", "default"})
"""Members of a JSON Schema that constrain nothing."""
NO_STORE: Final = {"Cache-Control": "no-store"}
"""Headers of an answer that no cache may store."""

_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")

P = TypeVar("P", bound=msgspec.Struct)
EndpointHandler = Callable[[web.Request, P], Awaitable[web.StreamResponse]]


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of an endpoint that has none."""


class PublicKeyParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of an endpoint that accepts a key in its query."""

    key: (
        Annotated[
            str,
            msgspec.Meta(
                description="An API key with the scope `events:write` alone. "
                "Send any other key in a header."
            ),
        ]
        | None
    ) = None


class RequestBody(NamedTuple):
    """The accepted bodies of a request."""

    media_types: dict[str, Any]
    """The type of each accepted media type, for the document; None is plain text."""
    description: str
    example: Any
    """A JSON body that the operation accepts."""
    is_required: bool = True


class IgnoredQuery(msgspec.Struct, frozen=True):
    """The query of a page, which its script reads; the service ignores it."""


class Endpoint(NamedTuple):
    """One operation of the API."""

    method: str
    paths: tuple[str, ...]
    handler: EndpointHandler[Any]
    parameters: type[msgspec.Struct]
    """The query's parameters; their names are the encoded names of the fields."""
    answer: Any
    """The type of a successful answer's body, or None if it is no struct as JSON."""
    media_types: tuple[str, ...]
    problems: tuple[ProblemKind, ...]
    headers: dict[str, str]
    """Headers of a successful answer, with a description of each."""
    status: HTTPStatus = HTTPStatus.OK
    """The status of a successful answer."""
    body: RequestBody | None = None
    scope: Scope | None = None
    """The scope that a key needs; None if the operation is open to everybody."""
    other_statuses: Mapping[HTTPStatus, str] = MappingProxyType({})
    """Descriptions of other statuses whose body has one of these media types."""
    has_message: bool = False
    """Whether problems but 408 have a member `message`, which some clients need."""

    @property
    def name(self) -> str:
        """The handler's name: the operation's id."""
        return self.handler.__name__

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Authorize the request, and return the handler's answer.

        The parameters are decoded, and the body is read, only afterwards.
        """
        if self.has_message:
            request[HAS_MESSAGE] = True
        await authorize(request, self.scope)
        return await self.handler(request, read_parameters(request, self.parameters))


class Options(TypedDict, total=False):
    """Optional parts of a declaration; see `Endpoint`."""

    answer: Any
    media_types: tuple[str, ...]
    problems: tuple[ProblemKind, ...]
    headers: dict[str, str]
    status: HTTPStatus
    body: RequestBody | None
    scope: Scope | None
    other_statuses: Mapping[HTTPStatus, str]
    has_message: bool


class Endpoints(list[Endpoint]):
    """The endpoints of one domain, filled by decorating their handlers."""

    def get(
        self, *paths: str, parameters: type[P], **options: Unpack["Options"]
    ) -> Callable[[EndpointHandler[P]], EndpointHandler[P]]:
        """Declare a GET (and HEAD) endpoint; its docstring becomes its description."""
        return self._declare("GET", paths, parameters, options)

    def post(
        self, *paths: str, parameters: type[P], **options: Unpack["Options"]
    ) -> Callable[[EndpointHandler[P]], EndpointHandler[P]]:
        """Declare a POST endpoint; its handler reads the body."""
        return self._declare("POST", paths, parameters, options)

    def put(
        self, *paths: str, parameters: type[P], **options: Unpack["Options"]
    ) -> Callable[[EndpointHandler[P]], EndpointHandler[P]]:
        """Declare a PUT endpoint; its handler reads the body."""
        return self._declare("PUT", paths, parameters, options)

    def delete(
        self, *paths: str, parameters: type[P], **options: Unpack["Options"]
    ) -> Callable[[EndpointHandler[P]], EndpointHandler[P]]:
        """Declare a DELETE endpoint."""
        return self._declare("DELETE", paths, parameters, options)

    def _declare(
        self,
        method: str,
        paths: tuple[str, ...],
        parameters: type[P],
        options: "Options",
    ) -> Callable[[EndpointHandler[P]], EndpointHandler[P]]:
        def declare(handler: EndpointHandler[P]) -> EndpointHandler[P]:
            described: Options = {
                "answer": None,
                "media_types": ("application/json",),
                "problems": (),
                "headers": {},
                **options,
            }
            self.append(Endpoint(method, paths, handler, parameters, **described))
            return handler

        return declare

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the endpoints."""
        return [
            web.get(path, each.serve)
            if each.method == "GET"
            else web.route(each.method, path, each.serve)
            for each in self
            for path in each.paths
        ]


def read_parameters(request: web.Request, struct: type[P]) -> P:
    """Decode the query; raises `InvalidParameter` for the first invalid parameter."""
    known, required = _names(struct)
    # Most requests have no query: skip parsing it.
    if struct is IgnoredQuery or not (required or request.query_string):
        return cast("P", _defaults(struct))
    _check_names(request.query, known, required)
    values = {
        name: value if name in _texts(struct) else _convert(struct, name, value)
        for name, value in request.query.items()
    }
    try:
        return msgspec.convert(values, struct)
    except msgspec.ValidationError as error:
        # msgspec reports the field only as a path in its message.
        name = str(error).partition(" - at `$.")[2].rstrip("`")
        raise InvalidParameter(name, _expectation(struct, name)) from None


def _convert(struct: type[msgspec.Struct], name: str, value: str) -> Any:
    """Return the number or the truth value of a parameter that is no text."""
    # msgspec takes 2.0 and 1e1 for integers too, and null for an absent value.
    is_wrong = name in _integers(struct) and not _INTEGER.fullmatch(value)
    if not is_wrong and value.lower() != "null":
        with suppress(msgspec.ValidationError):
            return msgspec.convert(value, _types(struct)[name], strict=False)
    raise InvalidParameter(name, _expectation(struct, name))


def _check_names(
    query: MultiMapping[str], known: list[str], required: list[str]
) -> None:
    for name in required:
        if name not in query:
            raise InvalidParameter(name, "missing")
    for name, count in Counter(name for name, _ in query.items()).items():
        if name not in known:
            known_names = ", ".join(known) or "none"
            raise InvalidParameter(name, f"unknown parameter; known: {known_names}")
        if count > 1:
            raise InvalidParameter(name, "more than one value")
        # Required parameters are checked by handlers.
        if name not in required and not query[name]:
            raise InvalidParameter(name, "no value")


@cache
def _names(struct: type[msgspec.Struct]) -> tuple[list[str], list[str]]:
    """Return the names of all parameters, and of the required ones."""
    fields = msgspec.structs.fields(struct)
    required = [each.encode_name for each in fields if each.required]
    return [each.encode_name for each in fields], required


@cache
def _defaults(struct: type[msgspec.Struct]) -> msgspec.Struct:
    """Return the struct of a query without parameters."""
    return struct()


@cache
def _types(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the types of the parameters."""
    return {each.encode_name: each.type for each in msgspec.structs.fields(struct)}


@cache
def _texts(struct: type[msgspec.Struct]) -> frozenset[str]:
    """Return the names of the parameters that are texts: `null` is one, too."""
    return _named(struct, lambda schema: schema.get("type") in {"string", None})


@cache
def _integers(struct: type[msgspec.Struct]) -> frozenset[str]:
    """Return the names of the parameters that are integers."""
    return _named(struct, lambda schema: schema.get("type") == "integer")


def _named(
    struct: type[msgspec.Struct], is_wanted: Callable[[dict[str, Any]], bool]
) -> frozenset[str]:
    definition = msgspec.json.schema(struct)["$defs"][struct.__name__]
    return frozenset(
        name
        for name, schema in definition["properties"].items()
        if is_wanted(schema.get("anyOf", [schema])[0])
    )


def _expectation(struct: type[msgspec.Struct], name: str) -> str:
    """Describe the valid values of a parameter by its JSON Schema."""
    definition = msgspec.json.schema(struct)["$defs"][struct.__name__]
    schema = definition["properties"][name]
    allowed = schema.get("anyOf", [schema])[0]
    return "expected " + ", ".join(
        f"{word} {value}" for word, value in allowed.items() if word not in ANNOTATIONS
    )


def json_answer(
    value: object,
    headers: Mapping[str, str] | None = None,
    *,
    status: HTTPStatus = HTTPStatus.OK,
) -> web.Response:
    """Return a JSON answer with a struct as its body."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers=headers,
    )


def json_block(
    request: web.Request, value: object, *, status: HTTPStatus
) -> web.StreamResponse:
    """Return a JSON answer that no cache may store, sent in one write if possible.

    Its bytes are those of `json_answer` with `NO_STORE`, at a third of the cost.
    """
    body = msgspec.json.encode(value)
    is_large = len(body) > MAX_BLOCK_BYTES
    # An answer to a page has headers that the application adds.
    is_for_page = hdrs.ORIGIN in request.headers
    if is_large or is_for_page or not keeps_connection(request):
        return web.Response(
            status=status, body=body, content_type="application/json", headers=NO_STORE
        )
    lines = (
        f"{hdrs.CONTENT_LENGTH}: {len(body)}\r\n"
        f"{REQUEST_ID_HEADER}: {request[REQUEST_ID]}\r\n{rate_lines(request)}\r\n"
    )
    head = block_head(status, rfc822_formatted_time())
    return BlockResponse(status, head, lines.encode(), body, body_size=len(body))


@lru_cache(maxsize=8)
def block_head(status: HTTPStatus, date: str) -> bytes:
    """Return the head of a JSON block, without the lines of the single request."""
    headers = {hdrs.CONTENT_TYPE: "application/json", **NO_STORE, **NO_SNIFFING}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    start = f"HTTP/1.1 {int(status)} {status.phrase}\r\n{hdrs.DATE}: {date}\r\n"
    return (start + "".join(lines)).encode()
