// `GET /usage/plans`: the plans that messages can be priced by.
import { useQuery } from "@tanstack/react-query";

import { getJson, isRecord, unreadable } from "@/api/client";
import type { components } from "@/api/schema";

export type Plan = components["schemas"]["PlanItem"];

const AN_HOUR_MS = 3_600_000;

/** The plans, the default first. */
export function usePlans() {
  return useQuery({
    queryKey: ["plans"],
    queryFn: ({ signal }) => fetchPlans(signal),
    staleTime: AN_HOUR_MS,
  });
}

async function fetchPlans(signal: AbortSignal): Promise<Plan[]> {
  const answer = await getJson("/usage/plans", {}, signal);
  const plans = isRecord(answer.body) ? answer.body.plans : null;
  if (!Array.isArray(plans)) {
    throw unreadable(answer, "The service sent no list of plans.");
  }
  return plans.filter(isPlan);
}

function isPlan(value: unknown): value is Plan {
  return (
    isRecord(value) &&
    typeof value.plan === "string" &&
    typeof value.is_default === "boolean"
  );
}
