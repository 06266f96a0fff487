"""The commands of `copilot-usage budgets`: list, show, set, remove, deliveries, retry.

They change the database directly, whether or not a service is running. A running
service delivers a retry within seconds.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgspec
import typer

from service.cli import terminal
from service.cli.terminal import ConfigFile
from service.settings import load
from service.storage.database import open_database
from service.usage.budgets.errors import BadBudget
from service.usage.budgets.expectations import Expectations
from service.usage.budgets.model import (
    DEFAULT_THRESHOLDS,
    BudgetItem,
    DeliveryItem,
    NewBudget,
)
from service.usage.budgets.outbox import Outbox
from service.usage.budgets.state import BudgetStates
from service.usage.budgets.store import BudgetStore
from service.usage.forecast.forecasts import Forecasts
from service.usage.periods.reading.reader import KeptSnapshots

COLUMNS: Final = ("name", "credits", "used", "share", "fired", "webhook")
DELIVERY_COLUMNS: Final = ("id", "period", "threshold", "fired", "state", "last")
MAX_DELIVERIES: Final = 1_000

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the budget.")]
T = TypeVar("T")

cli = typer.Typer(
    help="Budgets: thresholds of credits, and their webhooks.", no_args_is_help=True
)


class Opened(NamedTuple):
    """The budgets of a database."""

    store: BudgetStore
    states: BudgetStates
    outbox: Outbox


@cli.command("list")
def list_budgets(config: ConfigFile = None) -> None:
    """List all budgets, with what the open period has used of them."""

    async def read(opened: Opened) -> list[BudgetItem]:
        return await opened.states.of(await opened.store.list())

    rows = [_row(each) for each in _run(config, read)]
    terminal.print_table(COLUMNS, rows)


@cli.command("show")
def show(name: Name, config: ConfigFile = None) -> None:
    """Print a budget as JSON, as the API answers it."""

    async def read(opened: Opened) -> list[BudgetItem]:
        return await opened.states.of([await opened.store.find(name)])

    _print_json(_run(config, read)[0])


@cli.command("set")
def put(  # noqa: PLR0913 - each argument is an option
    name: Name,
    credits_: Annotated[
        float, typer.Argument(metavar="CREDITS", help="The credits of one period.")
    ],
    config: ConfigFile = None,
    *,
    thresholds: Annotated[
        str, typer.Option(metavar="PERCENTS", help="Percentages, comma-separated.")
    ] = ",".join(map(str, DEFAULT_THRESHOLDS)),
    forecast_thresholds: Annotated[
        str, typer.Option(metavar="PERCENTS", help="Percentages of the forecast.")
    ] = "",
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="The receiver of firings.")
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            metavar="SECRET",
            envvar="WEBHOOK_SECRET",
            help="The secret of the webhook, instead of a new or the present one.",
        ),
    ] = None,
) -> None:
    """Create a budget, or replace all of its content; a new secret is printed once."""
    receiver = None if webhook is None else {"url": webhook, "secret": secret}
    content = {
        "credits": credits_,
        "thresholds": _split(thresholds),
        "forecast_thresholds": _split(forecast_thresholds),
        "webhook": receiver,
    }
    try:
        new = msgspec.convert(content, NewBudget, strict=False)
    except msgspec.ValidationError as error:
        raise BadBudget(str(error)) from None

    async def change(opened: Opened) -> list[BudgetItem]:
        stored = await opened.store.put(name, new)
        return await opened.states.of([stored.budget], secret=stored.secret)

    _print_json(_run(config, change)[0])


@cli.command("remove")
def remove(name: Name, config: ConfigFile = None) -> None:
    """Remove a budget, with the log of its deliveries and those that are pending."""

    async def change(opened: Opened) -> None:
        await opened.store.remove(name)

    _run(config, change)
    typer.echo(f"Removed: {name}")


@cli.command("deliveries")
def deliveries(name: Name, config: ConfigFile = None) -> None:
    """List what a budget has fired, and how its delivery went, the newest first."""

    async def read(opened: Opened) -> list[DeliveryItem]:
        budget = await opened.store.find(name)
        return await opened.outbox.page(budget, None, MAX_DELIVERIES)

    rows = [_delivery_row(each) for each in _run(config, read)]
    terminal.print_table(DELIVERY_COLUMNS, rows)


@cli.command("retry")
def retry(
    name: Name,
    delivery: Annotated[
        str, typer.Argument(metavar="ID", help="The id of the delivery.")
    ],
    config: ConfigFile = None,
) -> None:
    """Have a running service deliver a firing again."""

    async def change(opened: Opened) -> DeliveryItem:
        return await opened.outbox.retry(await opened.store.find(name), delivery)

    _print_json(_run(config, change))


def _run(config: ConfigFile, work: Callable[[Opened], Awaitable[T]]) -> T:
    """Return the result of work on the database of the settings."""

    async def run() -> T:
        async with _opened(config) as opened:
            return await work(opened)

    return asyncio.run(run())


@asynccontextmanager
async def _opened(config: ConfigFile) -> AsyncIterator[Opened]:
    settings = load(config, os.environ).settings
    async with open_database(settings.storage, must_exist=True) as database:
        kept = KeptSnapshots(settings, database)
        expectations = Expectations(Forecasts(settings.periods, kept))
        try:
            yield Opened(
                BudgetStore(database, allow_private=settings.webhooks.allow_private),
                BudgetStates(database, expectations),
                Outbox(database),
            )
        finally:
            await kept.close()


def _split(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _print_json(value: Any) -> None:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    typer.echo(text.decode())


def _row(item: BudgetItem) -> tuple[str, ...]:
    return (
        item.name,
        f"{item.credits:,.2f}",
        "" if item.credits_used is None else f"{item.credits_used:,.2f}",
        "" if item.share is None else f"{item.share:.1%}",
        ", ".join(f"{each.kind.value} {each.threshold}%" for each in item.fired),
        "" if item.webhook is None else item.webhook.url,
    )


def _delivery_row(item: DeliveryItem) -> tuple[str, ...]:
    known = (item.last_status, item.last_error)
    last = " ".join(str(each) for each in known if isinstance(each, int | str))
    return (
        item.id,
        item.period,
        f"{item.kind.value} {item.threshold}%",
        item.fired_at[:19] + "Z",
        f"{item.state}, attempts: {item.attempts}",
        last,
    )
