// A radio button for each plan, with what the whole period would cost under it.
import { useId } from "react";

import { formatCredits, formatDifference } from "@/text/credits";
import { planName } from "@/text/plans";

import { usePlanTotal } from "../api/use-plan-total";
import { usePlans } from "../api/use-plans";
import type { ComparePlansProps } from "./compare-plans";
import { isSamePlan } from "./same-plan";

export function PlanChoices({ shown, period, onChoose }: ComparePlansProps) {
  const name = useId();
  const { data: plans, isError, refetch } = usePlans();
  const current = plans?.find(({ plan, is_default }) =>
    shown === null ? is_default : isSamePlan(plan, shown),
  );
  const own = plans?.find(({ is_default }) => is_default);
  const ownTotal = usePlanTotal(own?.plan ?? null, period);
  if (isError) {
    return (
      <p className="notice" role="status">
        The other pricing plans could not be loaded.{" "}
        <button type="button" onClick={() => void refetch()}>
          Try again
        </button>
      </p>
    );
  }
  if (!plans) return <p role="status">Loading the plans…</p>;
  return (
    <fieldset className="plans">
      <legend>What would this period cost under another plan?</legend>
      {plans.map(({ plan, is_default }) => (
        <PlanChoice
          key={plan}
          plan={plan}
          period={period}
          name={name}
          isOwn={is_default}
          isChosen={plan === current?.plan}
          ownHundredths={ownTotal.data?.hundredths ?? null}
          onChoose={() => onChoose(is_default ? null : plan)}
        />
      ))}
    </fieldset>
  );
}

interface ChoiceProps {
  plan: string;
  period: string | null;
  /** Of the group of radio buttons. */
  name: string;
  isOwn: boolean;
  isChosen: boolean;
  /** The total under the plan that is billed; null while it is not known. */
  ownHundredths: number | null;
  onChoose: () => void;
}

function PlanChoice(props: ChoiceProps) {
  const { plan, period, name, isOwn, isChosen, ownHundredths, onChoose } = props;
  const total = usePlanTotal(plan, period);
  const hundredths = total.data?.hundredths ?? null;
  return (
    <label className="plan">
      <input type="radio" name={name} checked={isChosen} onChange={onChoose} />
      <span className="plan-name">{planName(plan)}</span>{" "}
      {isOwn && <span className="plan-own">your plan</span>}{" "}
      <span className="plan-total">
        {hundredths !== null
          ? `${formatCredits(hundredths)} credits`
          : total.isError
            ? "Total not available"
            : "…"}
      </span>{" "}
      {!isOwn && hundredths !== null && ownHundredths !== null && (
        <span className="plan-difference">
          {formatDifference(hundredths - ownHundredths)} credits
        </span>
      )}
    </label>
  );
}
