// `GET /usage`: the whole period under a plan.
import { keepPreviousData, useQuery } from "@tanstack/react-query";

import { getJson } from "@/api/client";
import { freshnessOf, type Freshness } from "@/api/freshness";

import type { Period } from "../period";
import { readPeriod } from "./read-period";

export interface PeriodAnswer {
  period: Period;
  freshness: Freshness;
}

/** The period, asked again when it is no longer fresh and the page is looked at. */
export function usePeriod(plan: string | null) {
  return useQuery({
    queryKey: ["period", plan],
    queryFn: ({ signal }) => fetchPeriod(plan, signal),
    staleTime: (query) => query.state.data?.freshness.staleTimeMs ?? 0,
    // While another plan's prices arrive, the last ones stay on the screen.
    placeholderData: keepPreviousData,
  });
}

async function fetchPeriod(
  plan: string | null,
  signal: AbortSignal,
): Promise<PeriodAnswer> {
  const answer = await getJson("/usage", { plan }, signal);
  const freshness = freshnessOf(answer.headers, Date.now());
  return { period: readPeriod(answer), freshness };
}
