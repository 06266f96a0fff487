"""Samples of the metrics of this process."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from service.observability.metrics import REGISTRY

Read = Callable[..., float]
"""Reads a sample by its name and labels."""


class Sample(NamedTuple):
    """One value of a metric."""

    name: str
    labels: dict[str, str]
    value: float


def samples() -> Iterator[Sample]:
    """Yield all current samples."""
    # Tests look often, and the text of a scrape takes long to write and to parse.
    for family in REGISTRY.prepare_scrape().collect():
        for each in family.samples:
            yield Sample(each.name, each.labels, each.value)


def value(name: str, **labels: str) -> float:
    """Return the current value of a sample; 0 if it does not exist."""
    found = (each.value for each in samples() if each[:2] == (name, labels))
    return next(found, 0.0)


def growth() -> Read:
    """Return a function that reads the growth of a sample since this call."""
    before = {(each.name, str(sorted(each.labels.items()))): each for each in samples()}

    def read(name: str, **labels: str) -> float:
        known = before.get((name, str(sorted(labels.items()))))
        return value(name, **labels) - (known.value if known else 0.0)

    return read
