"""Endpoints, declared beside their handlers: path, parameters and answers in one place.

A handler takes the request and its parameters, already decoded into a struct. The
same declaration routes requests and generates the OpenAPI document, so neither can
say something else than the other.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypedDict, TypeVar, Unpack, cast

import msgspec
from aiohttp import web
from multidict import MultiMapping

from service.parameters import InvalidParameter
from service.web.problems import ProblemKind

ROUTES: Final = "routes"

P = TypeVar("P", bound=msgspec.Struct)
EndpointHandler = Callable[[web.Request, P], Awaitable[web.StreamResponse]]


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of an endpoint that has none."""


class Body(NamedTuple):
    """What a request's body may be."""

    media_types: dict[str, Any]
    """The type of each form that is taken, for the document; None is plain text."""
    description: str
    example: Any
    """A JSON body that does something."""


class OwnQuery(msgspec.Struct, frozen=True):
    """A query that only the page itself reads: it is passed over, whatever it says."""


class Endpoint(NamedTuple):
    """One operation of the API."""

    method: str
    paths: tuple[str, ...]
    handler: EndpointHandler[Any]
    parameters: type[msgspec.Struct]
    """The query's parameters; field names (or their encoded names) are theirs."""
    answer: Any
    """The type of the good answer's body, or None where it is no JSON of ours."""
    media_types: tuple[str, ...]
    problems: tuple[ProblemKind, ...]
    headers: dict[str, str]
    """Headers of the good answer, with a description of each."""
    status: HTTPStatus = HTTPStatus.OK
    """The status of the good answer."""
    body: Body | None = None
    needs_key: bool = False
    """Whether only applications with a key may ask."""
    also: Mapping[HTTPStatus, str] = MappingProxyType({})
    """Other statuses that have a body of these media types, described."""

    @property
    def name(self) -> str:
        """The handler's name: the operation's id."""
        return self.handler.__name__

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Decode the parameters and let the handler answer."""
        return await self.handler(request, read_parameters(request, self.parameters))


class Options(TypedDict, total=False):
    """What a declaration may say beyond path and parameters; see `Endpoint`."""

    answer: Any
    media_types: tuple[str, ...]
    problems: tuple[ProblemKind, ...]
    headers: dict[str, str]
    status: HTTPStatus
    body: Body | None
    needs_key: bool
    also: Mapping[HTTPStatus, str]


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
            given: Options = {
                "answer": None,
                "media_types": ("application/json",),
                "problems": (),
                "headers": {},
                **options,
            }
            self.append(Endpoint(method, paths, handler, parameters, **given))
            return handler

        return declare

    def routes(self) -> list[web.RouteDef]:
        """The endpoints as aiohttp's routes."""
        return [
            web.get(path, each.serve)
            if each.method == "GET"
            else web.route(each.method, path, each.serve)
            for each in self
            for path in each.paths
        ]


def read_parameters(request: web.Request, struct: type[P]) -> P:
    """Decode the query; `InvalidParameter` names what is unknown, double or wrong."""
    fields = msgspec.structs.fields(struct)
    required = [each.encode_name for each in fields if each.required]
    if struct is OwnQuery or not (required or request.query_string):
        return cast("P", _defaults(struct))
    _check_names(request.query, [field.encode_name for field in fields], required)
    try:
        return msgspec.convert(dict(request.query), struct, strict=False)
    except msgspec.ValidationError as error:
        name = str(error).partition(" - at `$.")[2].rstrip("`")
        raise InvalidParameter(name, _wanted(struct, name)) from None


def _check_names(
    query: MultiMapping[str], known: list[str], required: list[str]
) -> None:
    for name in required:
        if name not in query:
            raise InvalidParameter(name, "not given")
    for name, count in Counter(name for name, _ in query.items()).items():
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise InvalidParameter(name, f"unknown parameter; known: {allowed}")
        if count > 1:
            raise InvalidParameter(name, "given more than once")
        # To msgspec, null is absent; what has to be there is judged by who reads it.
        if name not in required and query[name].lower() in {"", "null"}:
            raise InvalidParameter(name, "given without a value")


@cache
def _defaults(struct: type[msgspec.Struct]) -> msgspec.Struct:
    """What most requests ask for: nothing in particular."""
    return struct()


def _wanted(struct: type[msgspec.Struct], name: str) -> str:
    """What a parameter may be, in the words of the OpenAPI document."""
    definition = msgspec.json.schema(struct)["$defs"][struct.__name__]
    schema = definition["properties"][name]
    allowed = schema.get("anyOf", [schema])[0]
    return "expected " + ", ".join(f"{word} {value}" for word, value in allowed.items())


def json_answer(
    value: object,
    headers: Mapping[str, str] | None = None,
    *,
    status: HTTPStatus = HTTPStatus.OK,
) -> web.Response:
    """A struct as a JSON answer."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers=headers,
    )
