"""What the tests of `upstream` share: the sections of settings that a client needs."""

from service.settings import Breaker, Settings, Upstream


def sections(settings: Settings) -> tuple[Upstream, Breaker]:
    """Return what `open_client` takes."""
    return settings.upstream, settings.breaker
