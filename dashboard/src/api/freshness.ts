// How old an answer is, and how long it holds, from its headers (RFC 9111, 9211).

export interface Freshness {
  /** When the service fetched the period, in milliseconds since 1970. */
  asOf: number;
  /** For how long the answer need not be asked for again. */
  staleTimeMs: number;
  /** Whether the service could not refresh it, or has not yet. */
  isStale: boolean;
}

const LEAST_STALE_TIME_MS = 5_000;
/** A service that answers with stale figures refreshes them meanwhile. */
const AFTER_FIRST_STALE_MS = 1_500;
const AFTER_LATER_STALE_MS = 10_000;
const SHORTEST_INTERVAL_MS = 30_000;
const LONGEST_INTERVAL_MS = 300_000;

/** Reads `Age`, `Cache-Control` and `Cache-Status`; what is missing counts as fresh. */
export function freshnessOf(headers: Headers, now: number): Freshness {
  const age = Number(headers.get("Age") ?? 0);
  const maxAge = /(?:^|[\s,])max-age=(\d+)/.exec(headers.get("Cache-Control") ?? "");
  return {
    asOf: now - (Number.isFinite(age) && age > 0 ? age : 0) * 1000,
    staleTimeMs: Math.max(LEAST_STALE_TIME_MS, Number(maxAge?.[1] ?? 0) * 1000),
    isStale: /;\s*detail=stale/.test(headers.get("Cache-Status") ?? ""),
  };
}

/** Return when to request figures again, after so many stale answers in a row. */
export function nextRequestMs(freshness: Freshness, staleAnswers: number): number {
  if (staleAnswers === 1) return AFTER_FIRST_STALE_MS;
  if (staleAnswers > 1) return AFTER_LATER_STALE_MS;
  const lasts = Math.max(SHORTEST_INTERVAL_MS, freshness.staleTimeMs);
  return Math.min(lasts, LONGEST_INTERVAL_MS);
}
