// `GET /usage/reports`: what the whole period costs under a plan, without its messages.
import { skipToken, useQuery } from "@tanstack/react-query";

import { getJson, isRecord, unreadable, type Parameters } from "@/api/client";
import { freshnessOf } from "@/api/freshness";
import { toHundredths } from "@/text/credits";

/** The total in hundredths of a credit; nothing is asked where there is no plan. */
export function usePlanTotal(plan: string | null, period: string | null) {
  return useQuery({
    queryKey: ["plan-total", period, plan],
    queryFn:
      plan === null ? skipToken : ({ signal }) => fetchTotal({ period, plan }, signal),
    staleTime: (query) => query.state.data?.staleTimeMs ?? 0,
  });
}

async function fetchTotal(parameters: Parameters, signal: AbortSignal) {
  const answer = await getJson("/usage/reports", parameters, signal);
  const body = isRecord(answer.body) ? answer.body : {};
  const parts: unknown[] = Array.isArray(body.reports) ? body.reports : [null];
  const sums = [...parts, body.text].map((part) =>
    isRecord(part) ? toHundredths(part.credits_used) : null,
  );
  if (sums.includes(null)) throw unreadable(answer, "The service sent no sums.");
  const { staleTimeMs } = freshnessOf(answer.headers, Date.now());
  return {
    hundredths: sums.reduce<number>((sum, each) => sum + (each ?? 0), 0),
    staleTimeMs,
  };
}
