"""Reports from the upstream of the settings, by the client of the service."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog

from service.settings import Settings
from service.upstream.client import UpstreamClient, open_client
from service.usage.bulk.errors import RunFailed
from service.usage.bulk.report_keys import Resolve
from service.usage.errors import ReportUnavailable
from service.usage.reports import ReportCache, ReportResolver
from service.usage.snapshots.build import ReportPrice


@contextmanager
def fetching(settings: Settings) -> Iterator[Resolve]:
    """Open the upstream, and yield a function that calls it for reports.

    The function raises `RunFailed` if a report is unavailable: a bill must not depend
    on an outage.
    """
    # The last line has the outcome; log lines would break the progress bar.
    silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=silent)
    opening = open_client(settings.upstream, settings.breaker)
    with asyncio.Runner() as runner:
        client = runner.run(opening.__aenter__())
        resolver = _open_resolver(client, settings)

        def resolve(keys: Sequence[str]) -> dict[str, ReportPrice | None]:
            try:
                resolved = runner.run(resolver.resolve(keys))
            except ReportUnavailable as error:
                raise RunFailed(f"a report is unavailable: {error}") from error
            return dict(zip(keys, resolved.prices_of(keys).prices, strict=True))

        try:
            yield resolve
        finally:
            runner.run(opening.__aexit__(None, None, None))


def _open_resolver(client: UpstreamClient, settings: Settings) -> ReportResolver:
    return ReportResolver(
        client,
        ReportCache(settings.cache),
        concurrency=settings.upstream.concurrency,
        on_error="fail",
    )
