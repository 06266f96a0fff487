"""Problems of budgets, and the errors that they answer."""

from http import HTTPStatus
from typing import Final

from service.usage.budgets import errors
from service.web.problems import INVALID_BODY, INVALID_PARAMETER, Kinds, ProblemKind

BUDGET_NOT_FOUND: Final = ProblemKind(
    "budget_not_found", HTTPStatus.NOT_FOUND, "There is no such budget"
)
DELIVERY_NOT_FOUND: Final = ProblemKind(
    "delivery_not_found", HTTPStatus.NOT_FOUND, "There is no such delivery"
)
TOO_MANY_BUDGETS: Final = ProblemKind(
    "too_many_budgets", HTTPStatus.CONFLICT, "No more budgets are accepted"
)
NO_WEBHOOK: Final = ProblemKind(
    "no_webhook", HTTPStatus.CONFLICT, "The budget has no webhook that is enabled"
)

KINDS: Final[Kinds] = {
    errors.BudgetNotFound: BUDGET_NOT_FOUND,
    errors.TooManyBudgets: TOO_MANY_BUDGETS,
    errors.BadName: INVALID_PARAMETER,
    errors.BadBudget: INVALID_BODY,
    errors.DeliveryNotFound: DELIVERY_NOT_FOUND,
    errors.NoWebhook: NO_WEBHOOK,
}
