// `GET /usage/plans`: the plans that messages can be priced by.
import { useQuery } from "@tanstack/react-query";

import { getJson, isRecord, unreadable } from "@/api/client";
import type { components } from "@/api/schema";

export type Plan = components["schemas"]["PlanItem"];
export type PlanStep = Plan["steps"][number];

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
  return plans.flatMap(readPlan);
}

function readPlan(value: unknown): Plan[] {
  if (!isRecord(value)) return [];
  const { plan, is_default } = value;
  if (typeof plan !== "string" || typeof is_default !== "boolean") return [];
  const steps: unknown[] = Array.isArray(value.steps) ? value.steps : [];
  return [{ plan, is_default, steps: steps.filter(isStep) }];
}

function isStep(value: unknown): value is PlanStep {
  return isRecord(value) && typeof value.step === "string";
}
