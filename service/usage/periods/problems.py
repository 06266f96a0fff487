"""Problems of kept periods, and the errors that they answer."""

from http import HTTPStatus
from typing import Final

from service.usage.periods import errors
from service.web.problems import Kinds, ProblemKind

PERIOD_NOT_KEPT: Final = ProblemKind(
    "period_not_kept", HTTPStatus.NOT_FOUND, "There is no such kept period"
)
TEXTS_NOT_KEPT: Final = ProblemKind(
    "texts_not_kept",
    HTTPStatus.CONFLICT,
    "A kept period has the prices of one plan only",
)

KINDS: Final[Kinds] = {
    errors.PeriodNotKept: PERIOD_NOT_KEPT,
    errors.TextsNotKept: TEXTS_NOT_KEPT,
}
