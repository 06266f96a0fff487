"""The sandbox in the process of the service that runs against it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace

from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.options import SandboxOptions
from service.sandbox.server import running_sandbox
from service.settings import Settings


@asynccontextmanager
async def with_sandbox(settings: Settings) -> AsyncIterator[Settings]:
    """Run the sandbox if it is enabled, and yield settings that call it.

    Without it, the settings are unchanged.
    """
    if not settings.sandbox.enabled:
        yield settings
        return
    async with running_sandbox(embedded_options(settings)) as sandbox:
        yield replace(
            settings,
            # No proxy reaches the sandbox of this process.
            upstream=replace(
                settings.upstream, base_url=sandbox.url, trust_environment=False
            ),
            vehicles=replace(settings.vehicles, base_url=sandbox.url + VPIC_PATH),
        )


def embedded_options(settings: Settings) -> SandboxOptions:
    """Return the options of the embedded sandbox."""
    chosen = settings.sandbox
    return SandboxOptions(
        messages=chosen.messages,
        reports=chosen.reports,
        seed=chosen.seed,
        latency_ms=chosen.latency_ms,
        error_rate=chosen.error_rate,
    )
