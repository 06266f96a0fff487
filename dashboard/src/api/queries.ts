// How every question is kept, repeated and given up: the settings of TanStack Query.
import { QueryClient } from "@tanstack/react-query";

import { ApiError } from "./client";

const MAX_RETRIES = 3;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8_000;
/** The largest `Retry-After` that is waited for; beyond it, a person decides. */
const LONGEST_ASKED_MS = 10_000;

/** Only what may pass by itself is asked again, and not for ever. */
export function shouldRetry(failures: number, error: Error): boolean {
  const isTemporary = error instanceof ApiError && error.isTemporary;
  return isTemporary && failures < MAX_RETRIES;
}

/** Doubles each time, or is what the service asks for. */
export function waitBefore(failures: number, error: Error): number {
  const asked = error instanceof ApiError ? error.retryAfterMs : null;
  if (asked !== null) return Math.min(asked, LONGEST_ASKED_MS);
  return Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** failures);
}

export function createQueryClient(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      queries: {
        retry: shouldRetry,
        retryDelay: waitBefore,
        // A browser that takes itself for offline can still reach a service nearby.
        networkMode: "always",
        refetchOnWindowFocus: true,
        refetchOnReconnect: true,
        // Bodies are large and read once: comparing them with the last ones costs more
        // than it saves.
        structuralSharing: false,
      },
      mutations: { networkMode: "always" },
    },
  });
}
