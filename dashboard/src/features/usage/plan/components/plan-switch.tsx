// The choice between pricing plans, each with what the whole period costs under it.
import { usePlans } from "../api/use-plans";
import { isSamePlan } from "../same-plan";
import { PlanChoices } from "./plan-choices";
import { PlansMissing } from "./plans-missing";

interface Props {
  /** The plan of the view; null is the default. */
  shown: string | null;
  onChoose: (plan: string | null) => void;
}

export function PlanSwitch({ shown, onChoose }: Props) {
  const { data: plans, isError, refetch } = usePlans();
  if (!plans) {
    return isError ? (
      <PlansMissing onRetry={() => void refetch()} />
    ) : (
      <div className="card plans plans-loading" aria-busy="true" />
    );
  }
  const current = plans.find(({ plan, is_default }) =>
    shown === null ? is_default : isSamePlan(plan, shown),
  );
  // With one plan there is nothing to choose, unless the view has another.
  if (plans.length < 2 && current) return null;
  return (
    <PlanChoices plans={plans} current={current?.plan ?? null} onChoose={onChoose} />
  );
}
