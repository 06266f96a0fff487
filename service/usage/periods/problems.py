"""Problems of kept periods, and the errors that they answer."""

from http import HTTPStatus
from typing import Final

from service.usage.periods import errors
from service.usage.snapshots.errors import ChunkDamaged
from service.web.problems import Kinds, ProblemKind

PERIOD_NOT_KEPT: Final = ProblemKind(
    "period_not_kept", HTTPStatus.NOT_FOUND, "There is no such kept period"
)
TEXTS_NOT_KEPT: Final = ProblemKind(
    "texts_not_kept",
    HTTPStatus.CONFLICT,
    "The texts of the kept period are not kept",
)
PERIOD_DAMAGED: Final = ProblemKind(
    "period_damaged",
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "A part of the kept period is damaged",
)
PERIOD_REPLACED: Final = ProblemKind(
    "period_replaced",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The kept period changes all the time",
)

KINDS: Final[Kinds] = {
    errors.PeriodNotKept: PERIOD_NOT_KEPT,
    errors.TextsNotKept: TEXTS_NOT_KEPT,
    errors.PeriodReplaced: PERIOD_REPLACED,
    ChunkDamaged: PERIOD_DAMAGED,
}
