"""Divide all durations of Prometheus rules, to try alerts out in minutes.

`python scripts/scale_rules.py 30 < deploy/prometheus/alerts.yaml` prints rules whose
hour takes two minutes. Scale the configuration of Prometheus in the same way.
"""

import re
import sys
from typing import Final

UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
DURATION: Final = re.compile(r"(?<![\w.:])(\d+)([smhd])(?!\w)")
AGE: Final = re.compile(r"((?:age|behind)_seconds\{.*?\}\[\w+\]\)\) > )(\d+)")
"""A threshold that is a duration."""


def scale(rules: str, factor: float) -> str:
    """Return rules with all durations divided by a factor."""

    def divide(found: re.Match[str]) -> str:
        seconds = int(found[1]) * UNITS_S[found[2]] / factor
        return f"{max(1, round(seconds * 1_000))}ms"

    def divide_threshold(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) / factor:g}"

    return AGE.sub(divide_threshold, DURATION.sub(divide, rules))


if __name__ == "__main__":
    sys.stdout.write(scale(sys.stdin.read(), float(sys.argv[1])))
