// A radio button for each plan.
import { useId } from "react";

import { usePlanTotal } from "../api/use-plan-total";
import type { Plan } from "../api/use-plans";
import { PlanChoice } from "./plan-choice";

interface Props {
  plans: readonly Plan[];
  /** The plan whose prices the page shows; null where it is none of these. */
  current: string | null;
  onChoose: (plan: string | null) => void;
}

export function PlanChoices({ plans, current, onChoose }: Props) {
  const name = useId();
  const shown = usePlanTotal(current);
  return (
    <fieldset className="card plans">
      <legend>Pricing plan</legend>
      {plans.map(({ plan, is_default }) => (
        <PlanChoice
          key={plan}
          plan={plan}
          name={name}
          isChosen={plan === current}
          shownHundredths={shown.data?.hundredths ?? null}
          onChoose={() => onChoose(is_default ? null : plan)}
        />
      ))}
    </fieldset>
  );
}
