// Beside the title: the plan that priced the figures, and their age.
import type { Freshness } from "@/api/freshness";
import { planName } from "@/text/plans";

import { Updated } from "./period/components/updated";

interface Props {
  plan: string | null;
  freshness: Freshness;
}

export function Facts({ plan, freshness }: Props) {
  return (
    <>
      {plan !== null && <span>{planName(plan)} plan</span>}
      <Updated asOf={freshness.asOf} />
    </>
  );
}
