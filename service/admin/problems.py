"""Problems of operation by hand, and the errors that they answer."""

from http import HTTPStatus
from typing import Final

from service.admin.errors import CircuitNotFound, NoSchemas
from service.events.errors import SchemasRefused
from service.web.problems import DOMAIN_DISABLED, Kinds, ProblemKind

CIRCUIT_NOT_FOUND: Final = ProblemKind(
    "circuit_not_found", HTTPStatus.NOT_FOUND, "There is no such circuit"
)
REFRESH_FAILED: Final = ProblemKind(
    "refresh_failed",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "No worker could refresh the period",
)

SCHEMAS_REFUSED: Final = ProblemKind(
    "schemas_refused",
    HTTPStatus.CONFLICT,
    "A schema of events is invalid",
    consequence="all schemas stay as they were",
)

KINDS: Final[Kinds] = {
    CircuitNotFound: CIRCUIT_NOT_FOUND,
    NoSchemas: DOMAIN_DISABLED,
    SchemasRefused: SCHEMAS_REFUSED,
}
