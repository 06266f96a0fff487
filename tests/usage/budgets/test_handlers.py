"""The endpoints of budgets: their answers, scopes and refusals."""

from typing import Any, Final

import pytest
from yarl import URL

from service.keys.store import add_key
from service.settings import StorageSettings
from service.storage.database import Database
from tests.conftest import Client, MakeClient
from tests.usage.budgets.conftest import (
    NAME,
    budgeting_client,
    messages,
    put,
    read,
    until_state,
)
from tests.usage.periods.conftest import Keep

HOOK: Final = "https://hooks.example.com/T0/secret-path?token=1"
SECRET: Final = "whsec_" + "QUJD" * 8


async def test_a_budget_answers_what_is_used_and_left(
    budgeting: Client, keep: Keep
) -> None:
    """The figures are those of the open period."""
    created = await put(budgeting, thresholds=[80, 50, 80])
    assert (created["period"], created["credits_used"]) == (None, None)
    await keep(budgeting, messages(6))
    item = await read(budgeting)
    assert {key: item[key] for key in item if key not in {"created_at", "as_of"}} == {
        "name": "office",
        "credits": 10.0,
        "thresholds": [50, 80],
        "forecast_thresholds": [],
        "webhook": None,
        "period": "2024-04-29",
        "credits_used": 6.0,
        "credits_remaining": 4.0,
        "share": 0.6,
        "forecast": {"reason": "no_end_known"},
        "fired": item["fired"],
    }
    assert item["fired"][0]["threshold"] == 50
    listed = await (await budgeting.get("/usage/budgets")).json()
    assert [each["name"] for each in listed["budgets"]] == ["office"]


async def test_credits_left_are_negative_above_the_budget(
    budgeting: Client, keep: Keep
) -> None:
    """An overspent budget says by how much."""
    await put(budgeting, credits=2.5)
    await keep(budgeting, messages(4))
    item = await read(budgeting)
    assert (item["credits_remaining"], item["share"]) == (-1.5, 1.6)


async def test_a_created_secret_is_shown_once(budgeting: Client) -> None:
    """Later answers have neither the secret nor the path of the URL."""
    created = await put(budgeting, webhook={"url": HOOK})
    assert created["webhook"]["secret"].startswith("whsec_")
    again = await put(budgeting, webhook={"url": HOOK})
    shown = {"url": "https://hooks.example.com/…"}
    assert again["webhook"] == (await read(budgeting))["webhook"] == shown


async def test_a_given_secret_is_never_shown(budgeting: Client) -> None:
    """The client knows it already."""
    webhook = {"url": HOOK, "secret": SECRET}
    assert "secret" not in (await put(budgeting, webhook=webhook))["webhook"]


async def test_a_put_replaces_all_of_a_budget(budgeting: Client) -> None:
    """What it leaves out has its default again; the second one answers 200."""
    answer = await budgeting.put(
        NAME, json={"credits": 1, "thresholds": [7], "webhook": {"url": HOOK}}
    )
    assert answer.status == 201
    answer = await budgeting.put(NAME, json={"credits": 2})
    assert answer.status == 200
    item = await answer.json()
    assert (item["thresholds"], item["webhook"]) == ([50, 80, 100], None)


BAD: Final[dict[str, dict[str, Any]]] = {
    "no credits": {"credits": 0},
    "less than a hundredth": {"credits": 0.001},
    "too many credits": {"credits": 1e13},
    "no number": {"credits": "many"},
    "threshold 0": {"credits": 1, "thresholds": [0]},
    "half a percent": {"credits": 1, "thresholds": [0.5]},
    "too many thresholds": {"credits": 1, "thresholds": [*range(1, 22)]},
    "unknown field": {"credits": 1, "limit": 2},
    "http": {"credits": 1, "webhook": {"url": "http://hooks.example.com"}},
    "no host": {"credits": 1, "webhook": {"url": "https:///hook"}},
    "other scheme": {"credits": 1, "webhook": {"url": "file:///etc/passwd"}},
    "bad port": {"credits": 1, "webhook": {"url": "https://a.test:99999/"}},
    "password": {"credits": 1, "webhook": {"url": "https://a:b@a.test/"}},
    "control character": {"credits": 1, "webhook": {"url": "https://a.test/\n"}},
    "loopback": {"credits": 1, "webhook": {"url": "https://127.0.0.1/"}},
    "metadata": {"credits": 1, "webhook": {"url": "https://169.254.169.254/"}},
    "mapped": {"credits": 1, "webhook": {"url": "https://[::ffff:10.0.0.1]/"}},
    "wide digits": {
        "credits": 1,
        "webhook": {"url": "https://１２７.0.0.1/"},  # noqa: RUF001
    },
    "empty label": {"credits": 1, "webhook": {"url": "https://a..b/"}},
    "number": {"credits": 1, "webhook": {"url": "https://0/"}},
    "final dot": {"credits": 1, "webhook": {"url": "https://127.0.0.1./"}},
    "short secret": {"credits": 1, "webhook": {"url": HOOK, "secret": "whsec_QUJD"}},
    "no base64": {
        "credits": 1,
        "webhook": {"url": HOOK, "secret": "whsec_" + "?" * 40},
    },
    "no prefix": {"credits": 1, "webhook": {"url": HOOK, "secret": SECRET[6:]}},
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
async def test_bad_content_is_refused(
    client: MakeClient, storage: StorageSettings, content: dict[str, Any]
) -> None:
    """The answer says what is wrong, and nothing is stored."""
    service = await budgeting_client(client, storage, allow_private=False)
    answer = await service.put(NAME, json=content)
    problem = await answer.json()
    assert (answer.status, problem["code"]) == (422, "invalid_body"), problem
    assert (await service.get(NAME)).status == 404


@pytest.mark.parametrize("name", ["-", "a b", "a" * 65, "%00", "ä"])
async def test_a_bad_name_is_refused(budgeting: Client, name: str) -> None:
    """A budget cannot be created by it, and none has it."""
    path = f"/usage/budgets/{name}"
    answer = await budgeting.put(path, json={"credits": 1})
    assert (answer.status, (await answer.json())["code"]) == (400, "invalid_parameter")
    answer = await budgeting.get(path)
    assert (answer.status, (await answer.json())["code"]) == (404, "budget_not_found")


async def test_unknown_budgets_and_deliveries_are_not_found(budgeting: Client) -> None:
    """Each has its own code."""
    await put(budgeting, webhook={"url": HOOK})
    unknown = f"msg_{'0' * 32}"
    for method, path, code in (
        ("GET", "/usage/budgets/none", "budget_not_found"),
        ("DELETE", "/usage/budgets/none", "budget_not_found"),
        ("GET", "/usage/budgets/none/deliveries", "budget_not_found"),
        ("POST", f"{NAME}/deliveries/{unknown}/retry", "delivery_not_found"),
        ("POST", f"{NAME}/deliveries/x/retry", "delivery_not_found"),
    ):
        answer = await budgeting.request(method, path)
        assert (answer.status, (await answer.json())["code"]) == (404, code)


async def test_a_retry_without_a_webhook_is_refused(
    budgeting: Client, keep: Keep
) -> None:
    """There is nobody to whom it could be delivered."""
    await put(budgeting, thresholds=[50])
    await keep(budgeting, messages(5))
    (logged,) = await until_state(budgeting, "logged")
    answer = await budgeting.post(f"{NAME}/deliveries/{logged['id']}/retry")
    assert (answer.status, (await answer.json())["code"]) == (409, "no_webhook")


async def test_the_number_of_budgets_is_bounded(
    budgeting: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each revision is compared with all of them."""
    monkeypatch.setattr("service.usage.budgets.store.MAX_BUDGETS", 1)
    await put(budgeting)
    answer = await budgeting.put("/usage/budgets/more", json={"credits": 1})
    assert (answer.status, (await answer.json())["code"]) == (409, "too_many_budgets")
    await put(budgeting)


async def test_pages_of_deliveries_lead_to_the_end(
    budgeting: Client, keep: Keep
) -> None:
    """The newest are first, and none is missing or repeated."""
    await put(budgeting, thresholds=[10, 20, 30, 40, 50])
    await keep(budgeting, messages(5))
    path, found = f"{NAME}/deliveries?limit=2", []
    for size in (2, 2, 1):
        answer = await budgeting.get(path)
        page = (await answer.json())["deliveries"]
        assert len(page) == size
        found += [each["threshold"] for each in page]
        link = answer.links.get("next")
        path = URL(link["url"]).path_qs if link else ""
    assert (found, path) == ([50, 40, 30, 20, 10], "")
    answer = await budgeting.get(f"{NAME}/deliveries?cursor=x")
    assert answer.status == 400


async def test_scopes_protect_budgets(
    client: MakeClient, storage: StorageSettings, database: Database
) -> None:
    """Reading needs usage:read, changes need usage:manage."""
    keys = {
        scope: await add_key(database, "app", [scope])
        for scope in ("usage:read", "usage:manage", "events:read")
    }
    service = await client(
        storage={"url": storage.url},
        periods={"enabled": True},
        auth={"require": ("usage:read", "usage:manage")},
    )

    async def ask(method: str, path: str, scope: str) -> int:
        headers = {"X-API-Key": keys[scope]}
        content = {"credits": 1} if method == "PUT" else None
        answer = await service.request(method, path, headers=headers, json=content)
        return answer.status

    assert (await service.put(NAME, json={"credits": 1})).status == 401
    for scope, changed, seen in (
        ("events:read", 403, 403),
        ("usage:read", 403, 404),
        ("usage:manage", 201, 403),
    ):
        assert await ask("PUT", NAME, scope) == changed
        assert await ask("GET", NAME, scope) == seen
    retry = f"{NAME}/deliveries/x/retry"
    assert await ask("POST", retry, "usage:read") == 403
    assert await ask("GET", f"{NAME}/deliveries", "usage:read") == 200
    assert await ask("DELETE", NAME, "usage:read") == 403
    assert await ask("DELETE", NAME, "usage:manage") == 204
