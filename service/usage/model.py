"""The answer of `GET /usage/plans`; those of snapshots are in `snapshots.answers`."""

from msgspec import UNSET, Struct, UnsetType

from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT, Plan


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

    @classmethod
    def describe(cls, plan: Plan, *, is_default: bool) -> "PlanItem":
        """Return a plan with its steps in their order."""
        steps = [
            PlanStepItem(step.name)
            if step.rate is None or step.unit is None
            else PlanStepItem(step.name, step.rate / HUNDREDTHS_PER_CREDIT, step.unit)
            for step in plan.steps
        ]
        return cls(plan.id, is_default, steps)


class PlansAnswer(Struct, frozen=True):
    """Every plan with its version, the default one first."""

    plans: list[PlanItem]
