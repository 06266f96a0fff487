"""Errors of budgets.

BudgetError
├── BudgetNotFound     no budget has this name
├── TooManyBudgets     no more budgets are accepted
├── BadName            no budget may have this name
├── BadBudget          the content of a budget is invalid; the text says why
├── DeliveryNotFound   the budget has no such delivery
└── NoWebhook          the budget has no webhook that accepts deliveries
"""

from service.web.parameters import quoted


class BudgetError(Exception):
    """A request on budgets is refused."""


class BudgetNotFound(BudgetError):
    """No budget has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no budget {quoted(name)!r}")


class TooManyBudgets(BudgetError):
    """No more budgets are accepted."""


class BadName(BudgetError):
    """No budget may have this name."""

    def __init__(self) -> None:
        super().__init__(
            "name: expected 1 to 64 letters of ASCII, digits, '.', '_' and '-', the "
            "first one a letter or a digit"
        )


class BadBudget(BudgetError):
    """The content of a budget is invalid; the text says why."""


class DeliveryNotFound(BudgetError):
    """The budget has no such delivery."""

    def __init__(self, name: str, delivery: str) -> None:
        super().__init__(f"budget {name!r} has no delivery {quoted(delivery)!r}")


class NoWebhook(BudgetError):
    """The budget has no webhook, or the receiver has ended it by 410."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"budget {name!r} has no webhook, or its receiver answered 410; "
            "PUT the budget again with a webhook"
        )
