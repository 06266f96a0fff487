"""Redis Sentinel: finds the server that is the master now.

All Sentinels are asked at once. The answer with the highest configuration epoch counts.
So a Sentinel that is cut off from the others, and still names the former master, is
outvoted by any that took part in the failover.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import structlog

from service.settings.redis_urls import SentinelUrl
from service.storage import metrics

if TYPE_CHECKING:
    from redis.asyncio import Redis

ASK_S: Final = 0.4
"""Time limit of one Sentinel; shorter than that of a command, which may wait for it."""

log = structlog.get_logger()


class Login(NamedTuple):
    """User and password of the Sentinels themselves; empty where they need none."""

    username: str = ""
    password: str = ""


class Sentinels:
    """The Sentinels of one master, which may be unavailable while the master is not."""

    def __init__(self, url: SentinelUrl, login: Login) -> None:
        self._url = url
        self._clients = [_connect(url, login, *each) for each in url.sentinels]
        self._silent_since: float | None = None
        metrics.sentinels_changed(are_available=True)

    async def master_url(self) -> str:
        """Return the URL of the master; raises redis's `ConnectionError`."""
        from redis.exceptions import ConnectionError as RedisConnectionError

        asked = zip(self._url.sentinels, self._clients, strict=True)
        answers = await asyncio.gather(*(self._ask(*each) for each in asked))
        states = [each for each in answers if isinstance(each, dict)]
        self._note(answers, is_silent=not states)
        named = [each for each in states if each["is_master"]]
        # One that is down counts too: a former master must not win while it is.
        newest = max(named, key=_by_epoch, default=None)
        if newest is None or not _is_usable(newest):
            reasons = ", ".join(map(_reason, answers))
            name = self._url.service
            raise RedisConnectionError(f"no Sentinel knows a master {name}: {reasons}")
        return self._url.url_of(newest["ip"], newest["port"])

    async def close(self) -> None:
        """Close the connections."""
        for each in self._clients:
            await each.aclose()

    async def _ask(
        self, address: tuple[str, int], client: "Redis"
    ) -> dict[str, Any] | str:
        """Return the state of the master by one Sentinel, or why there is none."""
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(ASK_S):
                asked = client.sentinel_master(self._url.service, return_responses=True)
                return cast("dict[str, Any]", await asked)
        except (RedisError, OSError, TimeoutError) as error:
            host, port = address
            return f"{host}:{port} {str(error) or type(error).__name__}"

    def _note(self, answers: list[dict[str, Any] | str], *, is_silent: bool) -> None:
        """Log the moment from which no Sentinel answers, and that of its end."""
        since = self._silent_since
        if is_silent == (since is not None):
            return
        metrics.sentinels_changed(are_available=not is_silent)
        if since is None:
            self._silent_since = time.monotonic()
            reasons = ", ".join(each for each in answers if isinstance(each, str))
            log.warning("cache.sentinels.lost", reason=reasons)
        else:
            self._silent_since = None
            away_s = round(time.monotonic() - since, 3)
            log.info("cache.sentinels.restored", away_s=away_s)


def _is_usable(state: dict[str, Any]) -> bool:
    return not (state["is_sdown"] or state["is_odown"])


def _by_epoch(state: dict[str, Any]) -> tuple[int, bool]:
    """Return by what states compare: the epoch, then whether the master is reached."""
    return int(state["config-epoch"]), _is_usable(state)


def _reason(answer: dict[str, Any] | str) -> str:
    return answer if isinstance(answer, str) else f"{answer['ip']} is {answer['flags']}"


def _connect(url: SentinelUrl, login: Login, host: str, port: int) -> "Redis":
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return Redis(
        host=host,
        port=port,
        username=login.username or None,
        password=login.password or None,
        ssl=url.scheme == "rediss",
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
