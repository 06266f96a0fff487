"""The current period in answers: its header, and ranges that it does not cover."""

import pytest

from service.sandbox.server import RunningSandbox
from tests.conftest import Client, MakeClient, message

PATHS = ("/usage", "/v1/usage", "/usage/daily", "/usage/reports", "/usage/2")
BEGIN = "2024-05-31T23:30:00-01:00"


@pytest.fixture
async def service(client: MakeClient, sandbox: RunningSandbox) -> Client:
    """Return a service whose first message, by time, is the second one."""
    sandbox.sandbox.set_messages([message(1, timestamp="2024-06-03"), first()])
    return await client()


def first() -> dict[str, object]:
    """Return the earliest message: on June 1 in UTC."""
    return message(2, timestamp=BEGIN)


@pytest.mark.parametrize("path", [*PATHS, "/usage?limit=1", "/usage?from=2024-06-02"])
async def test_every_answer_names_the_period(service: Client, path: str) -> None:
    """It is the date of the first message in UTC, with an open end."""
    answer = await service.get(path)
    assert answer.status == 200
    assert answer.headers["Usage-Period"] == "2024-06-01/.."


@pytest.mark.parametrize("accept", ["text/csv", "application/x-ndjson"])
async def test_other_formats_name_it_too(service: Client, accept: str) -> None:
    """The header does not depend on the format."""
    answer = await service.get("/usage", headers={"Accept": accept})
    assert answer.headers["Usage-Period"] == "2024-06-01/.."


async def test_304_and_head_name_it_too(service: Client) -> None:
    """A cache updates the headers of its stored answer by those of 304."""
    etag = (await service.get("/usage")).headers["ETag"]
    answer = await service.get("/usage", headers={"If-None-Match": etag})
    assert (answer.status, answer.headers["Usage-Period"]) == (304, "2024-06-01/..")
    answer = await service.head("/usage")
    assert answer.headers["Usage-Period"] == "2024-06-01/.."


@pytest.mark.parametrize(
    "query, status",
    [
        pytest.param("from=2020-01-01&to=2020-02-01", 404, id="years before"),
        pytest.param("to=2024-06-01T00:30:00Z", 404, id="ends at the first message"),
        pytest.param("to=2024-06-01T00:30:00.000000001Z", 200, id="a moment later"),
        pytest.param("from=2020-01-01&to=2024-06-02", 200, id="covered in part"),
        pytest.param("from=2030-01-01", 200, id="after the last message"),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "text/csv"])
async def test_a_range_before_the_period_is_not_covered(
    service: Client, query: str, status: int, accept: str
) -> None:
    """An empty list would say that nothing was used then."""
    answer = await service.get(f"/usage?{query}", headers={"Accept": accept})
    assert answer.status == status
    if status == 404:
        problem = await answer.json()
        assert problem["code"] == "range_not_covered"
        assert "2024-06-01T00:30:00.000000Z/.." in problem["detail"]


async def test_an_empty_period_covers_any_range(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """Nothing is known of its beginning, so that the header is absent."""
    sandbox.sandbox.set_messages([])
    service = await client()
    answer = await service.get("/usage?from=2020-01-01&to=2020-02-01")
    assert (answer.status, await answer.json()) == (200, {"usage": []})
    assert "Usage-Period" not in answer.headers


@pytest.mark.parametrize(
    "query, name",
    [
        ("limit=1e1", "limit"),
        ("limit=2.0", "limit"),
        ("limit=+2", "limit"),
        ("limit=02", "limit"),
        ("limit=%202", "limit"),
        ("limit=1_0", "limit"),
        ("limit=%D9%A1", "limit"),
    ],
)
async def test_integers_are_digits(service: Client, query: str, name: str) -> None:
    """Other spellings of a number are mistakes of the client."""
    answer = await service.get(f"/usage?{query}")
    problem = await answer.json()
    assert (answer.status, problem["code"]) == (400, "invalid_parameter")
    assert problem["detail"].startswith(f"{name}: expected type integer")


@pytest.mark.parametrize("zone", ["localtime", "posixrules", "Europe/../UTC", "utc"])
async def test_only_zones_of_iana_are_known(service: Client, zone: str) -> None:
    """Other files of the machine are no zones."""
    answer = await service.get("/usage/daily", params={"tz": zone})
    assert answer.status == 400
    answer = await service.get("/usage/daily", params={"tz": "Europe/London"})
    assert answer.status == 200
