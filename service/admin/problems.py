"""Problems of operation by hand, and the errors that they answer."""

from http import HTTPStatus
from typing import Final

from service.admin.errors import CircuitNotFound
from service.web.problems import Kinds, ProblemKind

CIRCUIT_NOT_FOUND: Final = ProblemKind(
    "circuit_not_found", HTTPStatus.NOT_FOUND, "There is no such circuit"
)
REFRESH_FAILED: Final = ProblemKind(
    "refresh_failed",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "No worker could refresh the period",
)

KINDS: Final[Kinds] = {CircuitNotFound: CIRCUIT_NOT_FOUND}
