"""Reports that upstream has told us, and those that it has said do not exist.

An entry is young for its time to live, and after that stays as the last known good
copy, for times when upstream fails. The longest unused entries go first.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

from service import metrics
from service.settings import Cache
from service.usage.model import Report


class CachedReport(NamedTuple):
    """A report, or None where there is none, and until when that is believed."""

    report: Report | None
    young_until: float


class Reported(Protocol):
    """What is known of reports, here or also elsewhere."""

    def young(self, key: str) -> CachedReport | None:
        """The entry of this key, if it need not be asked for again."""

    def last_known(self, key: str) -> Report | None:
        """The last good copy of a report, however old."""

    def put(self, key: str, report: Report | None) -> None:
        """Remember what upstream has said of a key."""

    async def recall(self, keys: Collection[str]) -> None:
        """Before settling: learn what is known elsewhere."""

    async def tell(self) -> None:
        """After settling: let others know what was put."""


class ReportCache:
    """At most `max_reports` settled report ids."""

    def __init__(
        self, settings: Cache, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._entries: OrderedDict[str, CachedReport] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def young(self, key: str) -> CachedReport | None:
        """The entry of this key, if it need not be asked for again."""
        entry = self._entries.get(key)
        if entry is None or self._clock() >= entry.young_until:
            return None
        self._entries.move_to_end(key)
        return entry

    def last_known(self, key: str) -> Report | None:
        """The last good copy of a report, however old."""
        entry = self._entries.get(key)
        return entry.report if entry else None

    def put(self, key: str, report: Report | None, age_s: float = 0.0) -> None:
        """Remember what upstream has said of a key, now or some time ago."""
        young_until = self._clock() - age_s + self.ttl_s(report)
        self._entries[key] = CachedReport(report, young_until)
        self._entries.move_to_end(key)
        if len(self._entries) > self._settings.max_reports:
            self._entries.popitem(last=False)
        metrics.reports_held(len(self._entries))

    def ttl_s(self, report: Report | None) -> float:
        """How long a report, or None where there is none, is believed."""
        if report is None:
            return self._settings.missing_report_ttl_s
        return self._settings.report_ttl_s

    async def recall(self, keys: Collection[str]) -> None:
        """Nothing is known elsewhere."""

    async def tell(self) -> None:
        """There is nobody to tell."""
