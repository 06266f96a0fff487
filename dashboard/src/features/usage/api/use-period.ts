// `GET /usage`: a whole period under a plan.
import { keepPreviousData, useQuery, useQueryClient } from "@tanstack/react-query";

import { request } from "@/api/client";
import { parseExactly } from "@/api/exact-json";
import { freshnessOf, nextRequestMs, type Freshness } from "@/api/freshness";

import type { Period } from "../period";
import { readPeriod } from "./read-period";

export interface PeriodAnswer {
  period: Period;
  /** Id of the kept period that was asked for; null is the current one. */
  askedFor: string | null;
  freshness: Freshness;
  /** How many answers in a row were stale; 0 for a fresh one. */
  staleAnswers: number;
  etag: string | null;
}

interface Question {
  plan: string | null;
  /** Id of a kept period; null is the current one. */
  period: string | null;
}

/** The period; requested again on an interval, and soon after a first stale answer. */
export function usePeriod(question: Question) {
  const client = useQueryClient();
  const queryKey = ["period", question.period, question.plan];
  return useQuery({
    queryKey,
    queryFn: ({ signal }) =>
      fetchPeriod(question, client.getQueryData<PeriodAnswer>(queryKey), signal),
    staleTime: ({ state: { data } }) => data?.freshness.staleTimeMs ?? 0,
    refetchInterval: ({ state: { data } }) =>
      data ? nextRequestMs(data.freshness, data.staleAnswers) : false,
    // While the next prices arrive, the last ones stay on the screen.
    placeholderData: keepPreviousData,
  });
}

async function fetchPeriod(
  { plan, period }: Question,
  previous: PeriodAnswer | undefined,
  signal: AbortSignal,
): Promise<PeriodAnswer> {
  const answer = await request("/usage", {
    parameters: { period, plan },
    signal,
    parse: parseExactly,
  });
  const freshness = freshnessOf(answer.headers, Date.now());
  const etag = answer.headers.get("ETag");
  const isUnchanged = etag !== null && etag === previous?.etag;
  return {
    // The same object: nothing is computed again for figures that are the same.
    period: isUnchanged ? previous.period : readPeriod(answer),
    askedFor: period,
    etag,
    freshness,
    staleAnswers: freshness.isStale ? (previous?.staleAnswers ?? 0) + 1 : 0,
  };
}
