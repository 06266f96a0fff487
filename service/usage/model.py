"""The answer of `GET /usage/plans`; those of snapshots are in `snapshots.answers`."""

from msgspec import UNSET, Struct, UnsetType


class PlanStepItem(Struct, frozen=True):
    """A step of a plan; with a rate if its amount is a multiple of that rate."""

    step: str
    rate: float | UnsetType = UNSET
    """Credits for each unit."""
    unit: str | UnsetType = UNSET


class PlanItem(Struct, frozen=True):
    """A plan that `?plan=` accepts; requests without one use the default plan."""

    plan: str
    is_default: bool
    steps: list[PlanStepItem]


class PlansAnswer(Struct, frozen=True):
    """Every plan with its version, the default one first."""

    plans: list[PlanItem]
