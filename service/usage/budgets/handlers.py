"""The endpoints of budgets, and of the deliveries of what they fire."""

from http import HTTPStatus
from typing import Annotated, Any, Final

import structlog
from aiohttp import web
from msgspec import Meta, Struct

from service.usage.budgets import problems
from service.usage.budgets.model import (
    Budget,
    BudgetItem,
    BudgetsAnswer,
    DeliveriesAnswer,
    DeliveryItem,
    NewBudget,
)
from service.usage.budgets.outbox import DeliveryPlace, place_of
from service.usage.budgets.parts import BudgetParts
from service.web.auth import KEY
from service.web.bodies import JSON_PROBLEMS, JSON_TYPE, read_json
from service.web.http_cache.conditional import check_if_match
from service.web.links import next_link
from service.web.parameters import parse_cursor
from service.web.problems import INVALID_PARAMETER, STORAGE_UNAVAILABLE
from service.web.routes import (
    NO_STORE,
    Endpoints,
    NoParameters,
    RequestBody,
    json_answer,
)

TAG: Final = "budgets"
MAX_BODY_BYTES: Final = 16_384
BODY_TIMEOUT_S: Final = 10.0
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000


BUDGETS: Final = web.AppKey("budgets", BudgetParts)

log = structlog.get_logger()

endpoints = Endpoints()


class DeliveriesParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of the list of deliveries."""

    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)],
        Meta(description="Maximum number of deliveries on a page."),
    ] = DEFAULT_LIMIT
    cursor: Annotated[
        str | None, Meta(description="The next page, from a Link header.")
    ] = None


@endpoints.get(
    "/usage/budgets",
    parameters=NoParameters,
    scope="usage:read",
    answer=BudgetsAnswer,
    problems=(STORAGE_UNAVAILABLE,),
)
async def list_budgets(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """List all budgets, with what the open period has used of them."""
    parts = request.app[BUDGETS]
    found = await parts.store.list()
    return json_answer(BudgetsAnswer(await parts.states.of(found)), NO_STORE)


@endpoints.get(
    "/usage/budgets/{name}",
    parameters=NoParameters,
    scope="usage:read",
    answer=BudgetItem,
    problems=(problems.BUDGET_NOT_FOUND, STORAGE_UNAVAILABLE),
)
async def read_budget(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Read a budget: used, remaining, and the thresholds that have fired."""
    parts = request.app[BUDGETS]
    (item,) = await parts.states.of([await _find(request)])
    return json_answer(item, NO_STORE)


@endpoints.put(
    "/usage/budgets/{name}",
    parameters=NoParameters,
    scope="usage:manage",
    body=RequestBody(
        {JSON_TYPE: NewBudget},
        "The credits, the thresholds in percent, and the receiver of webhooks.",
        example={
            "credits": 5000,
            "thresholds": [50, 80, 100],
            "webhook": {"url": "https://hooks.example.com/budgets"},
        },
    ),
    answer=BudgetItem,
    other_statuses={HTTPStatus.CREATED: "The budget is new."},
    problems=(
        INVALID_PARAMETER,
        problems.TOO_MANY_BUDGETS,
        STORAGE_UNAVAILABLE,
        *JSON_PROBLEMS,
    ),
)
async def put_budget(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Create a budget, or replace its content.

    The next fresh snapshot fires what is reached already. What has fired in the period
    does not fire again. A secret that the service creates is in this answer only.
    """
    name = request.match_info["name"]
    new = await read_json(
        request, NewBudget, max_bytes=MAX_BODY_BYTES, timeout_s=BODY_TIMEOUT_S
    )
    check_if_match(request, None)
    parts = request.app[BUDGETS]
    stored = await parts.store.put(name, new)
    log.info(
        "budget.changed",
        budget=name,
        created=stored.is_created,
        credits=new.credits,
        webhook=new.webhook is not None,
        **_actor(request),
    )
    (item,) = await parts.states.of([stored.budget], secret=stored.secret)
    status = HTTPStatus.CREATED if stored.is_created else HTTPStatus.OK
    return json_answer(item, NO_STORE, status=status)


@endpoints.delete(
    "/usage/budgets/{name}",
    parameters=NoParameters,
    scope="usage:manage",
    media_types=(),
    status=HTTPStatus.NO_CONTENT,
    problems=(problems.BUDGET_NOT_FOUND, STORAGE_UNAVAILABLE),
)
async def delete_budget(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Remove a budget, with the log of its deliveries and those that are pending."""
    check_if_match(request, None)
    name = request.match_info["name"]
    await request.app[BUDGETS].store.remove(name)
    log.info("budget.removed", budget=name, **_actor(request))
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=NO_STORE)


@endpoints.get(
    "/usage/budgets/{name}/deliveries",
    parameters=DeliveriesParameters,
    scope="usage:read",
    answer=DeliveriesAnswer,
    problems=(INVALID_PARAMETER, problems.BUDGET_NOT_FOUND, STORAGE_UNAVAILABLE),
    headers={"Link": "The next page, where there is one."},
)
async def list_deliveries(
    request: web.Request, parameters: DeliveriesParameters
) -> web.StreamResponse:
    """List what a budget has fired, and how its delivery went, the newest first."""
    place = parse_cursor(parameters.cursor, DeliveryPlace)
    outbox, budget = request.app[BUDGETS].outbox, await _find(request)
    found = await outbox.page(budget, place, parameters.limit + 1)
    listed = found[: parameters.limit]
    link = {}
    if len(found) > len(listed):
        link = next_link(request, place_of(listed[-1]))
    return json_answer(DeliveriesAnswer(listed), {**NO_STORE, **link})


@endpoints.post(
    "/usage/budgets/{name}/deliveries/{id}/retry",
    parameters=NoParameters,
    scope="usage:manage",
    answer=DeliveryItem,
    status=HTTPStatus.ACCEPTED,
    problems=(
        problems.BUDGET_NOT_FOUND,
        problems.DELIVERY_NOT_FOUND,
        problems.NO_WEBHOOK,
        STORAGE_UNAVAILABLE,
    ),
)
async def retry_delivery(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Deliver a firing again, whatever became of it; its `webhook-id` is the same."""
    check_if_match(request, None)
    parts, budget = request.app[BUDGETS], await _find(request)
    delivery = request.match_info["id"]
    item = await parts.outbox.retry(budget, delivery)
    parts.deliverer.wake()
    log.info(
        "budget.delivery_retried",
        budget=budget.name,
        delivery=delivery,
        **_actor(request),
    )
    return json_answer(item, NO_STORE, status=HTTPStatus.ACCEPTED)


async def _find(request: web.Request) -> Budget:
    return await request.app[BUDGETS].store.find(request.match_info["name"])


def _actor(request: web.Request) -> dict[str, Any]:
    key = request.get(KEY)
    return {} if key is None else {"actor_key_id": key.id}
