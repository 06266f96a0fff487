"""The scenarios: who calls, how often, how long. All of them are bounded."""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from benchmarks.load.users import EVERYTHING, USAGE, Tasks

MAX_USERS: Final = 500
MAX_SECONDS: Final = 900
MAX_REQUESTS: Final = 1_000_000


class Stage(NamedTuple):
    """So many users for so many seconds."""

    seconds: float
    users: int


@dataclass(frozen=True)
class Scenario:
    """One run; it ends with its last stage, or with its last request before that."""

    about: str
    tasks: Tasks
    stages: tuple[Stage, ...]
    per_user_per_s: float
    """Calls of one user a second at most; 0 is one after another."""
    requests: int = MAX_REQUESTS

    @property
    def seconds(self) -> float:
        """Maximum duration in seconds."""
        return sum(stage.seconds for stage in self.stages)

    def bounded(
        self, seconds: float | None, users: int | None, requests: int | None
    ) -> "Scenario":
        """The same with other bounds; `ValueError` where they are beyond all reason."""
        stretch = 1 if seconds is None else seconds / self.seconds
        widest = max(stage.users for stage in self.stages)
        growth = 1 if users is None else users / widest
        other = replace(
            self,
            stages=tuple(
                Stage(stage.seconds * stretch, max(1, round(stage.users * growth)))
                for stage in self.stages
            ),
            requests=self.requests if requests is None else requests,
        )
        if (
            not 0 < other.seconds <= MAX_SECONDS
            or not 0 < max(stage.users for stage in other.stages) <= MAX_USERS
            or not 0 < other.requests <= MAX_REQUESTS
        ):
            raise ValueError(
                f"at most {MAX_SECONDS} s, {MAX_USERS} users and "
                f"{MAX_REQUESTS:,} requests"
            )
        return other


SCENARIOS: Final = {
    "steady": Scenario(
        "the whole period at 500 a second", USAGE, (Stage(30, 20),), per_user_per_s=25
    ),
    "spike": Scenario(
        "ten times as many callers all at once, and back",
        USAGE,
        (Stage(10, 10), Stage(10, 100), Stage(10, 10)),
        per_user_per_s=10,
    ),
    "soak": Scenario(
        "an hour's requests at 28 a second, sent as fast as they are answered",
        EVERYTHING,
        (Stage(600, 16),),
        per_user_per_s=0,
        requests=100_000,
    ),
    "outage": Scenario(
        "upstream dies after a third of the time and is back after two",
        USAGE,
        (Stage(30, 20),),
        per_user_per_s=10,
    ),
    "mixed": Scenario(
        "every endpoint, conditional and compressed requests among them",
        EVERYTHING,
        (Stage(30, 20),),
        per_user_per_s=20,
    ),
}
