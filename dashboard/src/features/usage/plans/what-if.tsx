// The standing notice over figures of a plan that is not the customer's.
import { planName } from "@/text/plans";

import { usePlans } from "../api/use-plans";
import { isSamePlan } from "./same-plan";

/** Return whether the figures are those of another plan than the customer's. */
export function useIsWhatIf(plan: string | null): boolean {
  const { data } = usePlans();
  const own = data?.find(({ is_default }) => is_default);
  return plan !== null && !(own && isSamePlan(own.plan, plan));
}

interface Props {
  plan: string;
  onEnd: () => void;
}

export function WhatIfNotice({ plan, onEnd }: Props) {
  return (
    <p className="notice what-if">
      <span>
        <strong>Not your plan: what it would cost</strong> under{" "}
        {planName(plan).toLowerCase()}. You are not charged these credits.
      </span>{" "}
      <button type="button" onClick={onEnd}>
        Back to your plan
      </button>
    </p>
  );
}
