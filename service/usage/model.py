"""The answer of `GET /usage/plans`; those of snapshots are in `snapshots.answers`."""

from msgspec import Struct


class PlanItem(Struct, frozen=True):
    """A plan that `?plan=` accepts; requests without one use the default plan."""

    plan: str
    is_default: bool


class PlansAnswer(Struct, frozen=True):
    """Every plan with its version, the default one first."""

    plans: list[PlanItem]
