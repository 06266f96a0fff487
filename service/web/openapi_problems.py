"""Problems in the OpenAPI document: the answers with errors, and an example of each."""

from typing import Final

import msgspec

from service.web import problems
from service.web.auth import SAFE_METHODS
from service.web.limits import is_exempt
from service.web.openapi_schemas import SCHEMAS, JsonObject
from service.web.problems import Problem, ProblemKind
from service.web.request_context import REQUEST_ID_HEADER
from service.web.routes import Endpoint, Endpoints, IgnoredQuery

REFUSALS: Final = (problems.INVALID_PARAMETER,)
"""Problems of every operation that reads its query."""
LIMITS: Final = (
    problems.OVERLOADED,
    problems.REQUEST_TIMEOUT,
    problems.RATE_LIMITED,
)
"""Problems of every operation with limits (`limits.is_exempt`)."""
KEYS: Final = (
    problems.UNAUTHORIZED,
    problems.FORBIDDEN,
    problems.RATE_LIMITED,
    problems.STORAGE_UNAVAILABLE,
)
"""Problems of every operation that needs a key."""
CROSS_SITE: Final = (problems.CROSS_ORIGIN,)
"""Problems of every operation with effects."""
SESSIONS: Final = (problems.CSRF_TOKEN_MISSING,)
"""Problems of every operation with effects that needs a key."""
CONDITIONS: Final = (problems.PRECONDITION_FAILED,)
"""Problems of every operation, for requests with `If-Match`."""
EXAMPLE_ID: Final = "7d9f2c51e0b84f6f"

_EXAMPLES: Final = "#/components/examples/"


def describe_headers(described: dict[str, str]) -> JsonObject:
    return {
        **{
            name: {"description": description, "schema": {"type": "string"}}
            for name, description in described.items()
        },
        REQUEST_ID_HEADER: {"$ref": f"#/components/headers/{REQUEST_ID_HEADER}"},
    }


def problem_answers(endpoint: Endpoint, *, needs_key: bool) -> JsonObject:
    """Return one answer for each status, which lists the problems of that status."""
    by_status: dict[int, list[ProblemKind]] = {}
    for kind in problems_of(endpoint, needs_key=needs_key):
        by_status.setdefault(int(kind.status), []).append(kind)
    return {
        str(status): _problem_answer(status, by_status[status])
        for status in sorted(by_status)
    }


def problems_of(endpoint: Endpoint, *, needs_key: bool) -> list[ProblemKind]:
    """Return all problems of an operation, also those that others share."""
    limits = () if all(map(is_exempt, endpoint.paths)) else LIMITS
    refusals = () if endpoint.parameters is IgnoredQuery else REFUSALS
    bodies = () if endpoint.body is None else (problems.BODIES_FULL,)
    keys = KEYS if needs_key else ()
    effects: tuple[ProblemKind, ...] = ()
    if endpoint.method not in SAFE_METHODS:
        effects = (*CROSS_SITE, *(SESSIONS if needs_key else ()))
    common = (
        *(*refusals, *CONDITIONS, problems.INTERNAL_ERROR),
        *(*bodies, *limits, *keys, *effects),
    )
    return list(dict.fromkeys((*endpoint.problems, *common)))


def _problem_answer(status: int, kinds: list[ProblemKind]) -> JsonObject:
    codes = [kind.code for kind in kinds]
    narrowed = {"properties": {"code": {"enum": codes}, "status": {"const": status}}}
    headers = describe_headers({})
    if status in problems.TEMPORARY:
        headers["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
    return {
        "description": ". ".join(f"`{kind.code}`: {kind.title}" for kind in kinds),
        "headers": headers,
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"allOf": [{"$ref": f"{SCHEMAS}Problem"}, narrowed]},
                "examples": {code: {"$ref": _EXAMPLES + code} for code in codes},
            }
        },
    }


def all_problems(endpoints: Endpoints) -> list[ProblemKind]:
    """Return all kinds, including those of unknown paths and methods."""
    kinds = {each for endpoint in endpoints for each in endpoint.problems}
    kinds.update(
        each for each in vars(problems).values() if isinstance(each, ProblemKind)
    )
    return sorted(kinds, key=lambda kind: (kind.status, kind.code))


def problem_example(kind: ProblemKind) -> JsonObject:
    problem = Problem(
        type=problems.TYPE_PREFIX + kind.code,
        title=kind.title,
        status=kind.status,
        detail="The cause of this problem.",
        code=kind.code,
        request_id=EXAMPLE_ID,
    )
    return {"summary": kind.title, "value": msgspec.to_builtins(problem)}
