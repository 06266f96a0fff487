"""Delivery: to receivers that fail in every way, and with processes that are killed."""

import asyncio
import socket
from typing import Any, Final

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import WebhookVerificationError

from service.settings import StorageSettings, load
from service.storage.database import Database
from service.usage.budgets import outbox
from service.usage.budgets.delivery import running_deliverer
from service.usage.budgets.webhooks import open_webhooks
from tests.conftest import GIVE_UP_S, Client, MakeClient
from tests.metric_samples import Read
from tests.usage.budgets.conftest import (
    NAME,
    Answer,
    Receiver,
    budgeting_client,
    fire_in,
    hang,
    messages,
    put,
    status,
    until_attempted,
    until_state,
)
from tests.usage.periods.conftest import Keep

OTHER: Final = "/usage/budgets/other"


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries are due at once."""
    monkeypatch.setattr(outbox, "wait_after", lambda *_: 0.0)


async def fire(service: Client, keep: Keep, url: str, **content: Any) -> dict[str, Any]:
    """Create a budget with a webhook that fires one threshold; return its answer."""
    content = {"thresholds": [50], **content}
    created = await put(service, webhook={"url": url}, **content)
    await keep(service, messages(5))
    return created


async def close(request: web.Request) -> web.StreamResponse:
    """Close the connection instead of an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def never_end(request: web.Request) -> web.StreamResponse:
    """Answer 200 with a body that has no end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65_536)


FAILURES: Final[dict[str, tuple[Answer, int | None, str | None]]] = {
    "500": (status(500), 500, None),
    "404": (status(404), 404, None),
    "redirect": (status(302, Location="/elsewhere"), 302, None),
    "hangs": (hang, None, "TryTimedOut"),
    "closes": (close, None, "ConnectionDropped"),
}


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_a_failure_is_retried_with_the_same_id(
    client: MakeClient,
    storage: StorageSettings,
    keep: Keep,
    receiver: Receiver,
    failure: tuple[Answer, int | None, str | None],
) -> None:
    """Each attempt has a signature of its own, and the last one succeeds."""
    service = await budgeting_client(client, storage, timeout_s=1.0)
    answer, _, _ = failure
    receiver.answers = [answer, answer, status(200)]
    created = await fire(service, keep, receiver.url)
    (delivery,) = await until_state(service, "delivered")
    assert (delivery["attempts"], delivery["last_status"]) == (3, 200)
    assert len(receiver.received) == 3
    assert {each.id for each in receiver.received} == {delivery["id"]}
    assert len({each.body for each in receiver.received}) == 1
    for each in receiver.received:
        each.verified(created["webhook"]["secret"])


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_the_log_of_deliveries_says_what_failed(
    client: MakeClient,
    storage: StorageSettings,
    keep: Keep,
    receiver: Receiver,
    failure: tuple[Answer, int | None, str | None],
) -> None:
    """It has the status or the error, and the time of the next attempt."""
    service = await budgeting_client(client, storage, timeout_s=1.0)
    answer, code, error = failure
    receiver.answers = [answer]
    await fire(service, keep, receiver.url)
    delivery = await until_attempted(service)
    assert delivery.get("last_status") == code
    assert delivery.get("last_error") == error
    assert delivery["state"] == "pending"
    assert delivery["next_attempt_at"] > delivery["fired_at"]


async def test_a_huge_answer_is_not_read(
    budgeting: Client, keep: Keep, receiver: Receiver
) -> None:
    """The status is enough."""
    receiver.answers = [never_end]
    await fire(budgeting, keep, receiver.url)
    (delivery,) = await until_state(budgeting, "delivered")
    assert delivery["attempts"] == 1


async def test_410_disables_the_webhook_until_the_next_put(
    budgeting: Client, keep: Keep, receiver: Receiver
) -> None:
    """Further firings are logged; a retry needs the webhook again."""
    receiver.answers = [status(410), status(204)]
    await fire(budgeting, keep, receiver.url, thresholds=[50, 80])
    (failed,) = await until_state(budgeting, "failed")
    assert failed["last_status"] == 410
    await keep(budgeting, messages(9))
    await until_state(budgeting, "logged")
    path = f"{NAME}/deliveries/{failed['id']}/retry"
    assert (await budgeting.post(path)).status == 409
    item = await put(budgeting, thresholds=[50, 80], webhook={"url": receiver.url})
    assert "disabled_at" not in item["webhook"]
    assert (await budgeting.post(path)).status == 202
    await until_state(budgeting, "delivered")
    assert [each.id for each in receiver.received] == [failed["id"]] * 2


@pytest.mark.usefixtures("no_waits")
async def test_the_last_attempt_fails_for_ever(
    budgeting: Client,
    keep: Keep,
    receiver: Receiver,
    added: Read,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A retry by hand has all attempts again."""
    monkeypatch.setattr("service.usage.budgets.firing.MAX_ATTEMPTS", 2)
    receiver.answers = [status(500), status(500), status(503), status(204)]
    await fire(budgeting, keep, receiver.url)
    (failed,) = await until_state(budgeting, "failed")
    assert (failed["attempts"], failed["last_status"]) == (2, 500)
    assert "next_attempt_at" not in failed
    results = "copilot_usage_webhook_attempts_total"
    assert added(results, result="failed") == added(results, result="retried") == 1
    path = f"{NAME}/deliveries/{failed['id']}/retry"
    assert (await budgeting.post(path)).status == 202
    (delivery,) = await until_state(budgeting, "delivered")
    assert delivery["attempts"] == 4


async def test_a_slow_receiver_delays_no_other(
    client: MakeClient, storage: StorageSettings, keep: Keep, receiver: Receiver
) -> None:
    """One host has two attempts at once; the other is served meanwhile."""
    service = await budgeting_client(client, storage, timeout_s=20.0)
    receiver.answers = [hang]
    many = list(range(1, 21))
    quick = Receiver()
    app = web.Application()
    app.router.add_post("/hook", quick.handle)
    async with TestServer(app) as server:
        slow_url = receiver.url.replace("127.0.0.1", "localhost")
        await put(service, thresholds=many, webhook={"url": slow_url})
        url = str(server.make_url("/hook"))
        await put(service, OTHER, thresholds=many, webhook={"url": url})
        await keep(service, messages(5))
        await until_state(service, "delivered", 20, OTHER)
    assert len(receiver.received) <= 2
    assert len(quick.received) == 20


async def test_a_private_address_is_refused(
    client: MakeClient,
    storage: StorageSettings,
    keep: Keep,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that resolves to loopback gets no connection."""
    connected: list[object] = []
    connect = socket.socket.connect
    service = await budgeting_client(client, storage, allow_private=False)

    def note(self: socket.socket, address: Any) -> None:
        connected.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", note)
    await fire(service, keep, "https://localhost:1/hook")
    delivery = await until_attempted(service)
    assert delivery["last_error"] == "AddressRefused"
    assert ("127.0.0.1", 1) not in connected


async def test_a_database_that_hangs_delays_no_shutdown(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deliverer does not wait for the next look before it ends."""
    has_begun = asyncio.Event()

    async def never(*_: object) -> None:
        has_begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(outbox.Outbox, "find_due", never)
    monkeypatch.setattr("service.usage.budgets.delivery.POLL_S", 2 * GIVE_UP_S)
    async with (
        asyncio.timeout(GIVE_UP_S),
        open_webhooks(load().settings.webhooks) as webhooks,
        running_deliverer(database, webhooks),
    ):
        await has_begun.wait()


@pytest.mark.parametrize("host", ["127.0.0.1", "１２７.0.0.1"])  # noqa: RUF001
async def test_a_private_url_of_a_former_setting_is_refused(
    client: MakeClient, storage: StorageSettings, database: Database, host: str
) -> None:
    """The setting may have changed since the budget was stored."""
    await fire_in(database, url=f"https://{host}:1/hook")
    service = await budgeting_client(client, storage, allow_private=False)
    assert (await until_attempted(service))["last_error"] == "AddressRefused"


async def test_a_wrong_secret_verifies_nothing(
    budgeting: Client, keep: Keep, receiver: Receiver
) -> None:
    """The signature depends on the secret of the budget."""
    await fire(budgeting, keep, receiver.url)
    await until_state(budgeting, "delivered")
    with pytest.raises(WebhookVerificationError):
        receiver.received[0].verified("whsec_" + "QUJD" * 8)
