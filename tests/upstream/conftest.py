"""What the tests of `upstream` share: sections of settings, and a type."""

from collections.abc import Awaitable, Callable

from service.settings import BreakerSettings, Settings, UpstreamSettings

Until = Callable[[Callable[[], bool]], Awaitable[None]]


def sections(settings: Settings) -> tuple[UpstreamSettings, BreakerSettings]:
    """Return what `open_client` takes."""
    return settings.upstream, settings.breaker
