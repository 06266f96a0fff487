// The session of this browser: who is signed in, until when, and with which scopes.
import {
  useMutation,
  useQuery,
  useQueryClient,
  type QueryClient,
  type QueryFilters,
} from "@tanstack/react-query";
import { useEffect } from "react";

import { ApiError, isRecord, request, unreadable, type JsonAnswer } from "@/api/client";
import { csrfToken, setCsrfToken } from "@/api/csrf";

const KEY = ["session"];
/** Everything that a session has read. */
const OTHER: QueryFilters = { predicate: ({ queryKey }) => queryKey[0] !== KEY[0] };
const PATH = "/session";
/** The longest time that browsers can wait for; a longer one would end at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export interface Session {
  /** The application whose key signed in. */
  name: string;
  scopes: readonly string[];
  /** Milliseconds since 1970. */
  expiresAt: number;
}

/** Why nobody is signed in. */
export type SignedOut = "never" | "left" | "ended" | "not-kept" | "no-keys";

export type SessionState =
  { session: Session; why: null } | { session: null; why: SignedOut };

/** Return whether a session permits a scope; `events:read-all` includes reading. */
export function permits(session: Session, scope: string): boolean {
  const { scopes } = session;
  if (scope === "events:read" && scopes.includes("events:read-all")) return true;
  return scopes.includes(scope);
}

/** Ask who is signed in; a session that ends while the page is open is noticed. */
export function useSession() {
  const client = useQueryClient();
  return useQuery({
    queryKey: KEY,
    queryFn: ({ signal }) => readSession(client, signal),
    staleTime: 30_000,
  });
}

/** Notice that the session has ended or is another one: by its time, or by a refusal. */
export function useSessionEnd(session: Session | null): void {
  const client = useQueryClient();
  const expiresAt = session?.expiresAt ?? null;
  useEffect(() => {
    const look = () => void client.invalidateQueries({ queryKey: KEY });
    const stopQueries = client.getQueryCache().subscribe((event) => {
      if (event.type !== "updated" || event.action.type !== "error") return;
      if (isRefused(event.action.error)) look();
    });
    const stopMutations = client.getMutationCache().subscribe((event) => {
      if (event.type !== "updated" || event.action.type !== "error") return;
      // A wrong key ends no session.
      const isSignIn = event.mutation.options.mutationKey?.[0] === KEY[0];
      if (!isSignIn && isRefused(event.action.error)) look();
    });
    return () => {
      stopQueries();
      stopMutations();
    };
  }, [client]);
  useEffect(() => {
    if (expiresAt === null) return;
    const left = expiresAt - Date.now();
    // With a clock that is ahead, the refused requests alone say when it ends.
    if (left <= 0) return;
    const look = () => void client.invalidateQueries({ queryKey: KEY });
    const timer = setTimeout(look, Math.min(left + 1_000, MAX_TIMER_MS));
    return () => clearTimeout(timer);
  }, [client, expiresAt]);
}

/** Sign in with a key. It is sent once, and kept nowhere. */
export function useSignIn() {
  const client = useQueryClient();
  return useMutation({
    mutationKey: KEY,
    mutationFn: async (key: string) => {
      const signal = AbortSignal.timeout(30_000);
      await request(PATH, { method: "POST", body: { key }, signal });
      // A browser that keeps no cookie would be asked to sign in again and again.
      const state = await askSession(signal);
      return state ?? { session: null, why: "not-kept" as const };
    },
    onSuccess: (state) => {
      client.removeQueries(OTHER);
      client.setQueryData<SessionState>(KEY, state);
    },
    // Or the key would stay in the memory of the page.
    gcTime: 0,
  });
}

/** Sign out, and forget what the session has read. */
export function useSignOut() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: () =>
      request(PATH, { method: "DELETE", signal: AbortSignal.timeout(30_000) }),
    onSuccess: () => {
      setCsrfToken(null);
      client.setQueryData<SessionState>(KEY, { session: null, why: "left" });
      client.removeQueries(OTHER);
    },
  });
}

async function readSession(
  client: QueryClient,
  signal: AbortSignal,
): Promise<SessionState> {
  const before = client.getQueryData<SessionState>(KEY);
  const token = csrfToken();
  const state = await askSession(signal);
  if (state) {
    // Another tab has signed in, perhaps with a key that may not see what this one shows.
    if (token !== null && token !== csrfToken()) void client.resetQueries(OTHER);
    return state;
  }
  if (before?.session) return { session: null, why: "ended" };
  return { session: null, why: before?.why ?? "never" };
}

/** Return the session; null without one. */
async function askSession(signal: AbortSignal): Promise<SessionState | null> {
  try {
    return { session: toSession(await request(PATH, { signal })), why: null };
  } catch (error) {
    setCsrfToken(null);
    if (isUnauthorized(error)) return null;
    const hasNoKeys = error instanceof ApiError && error.status === 404;
    if (hasNoKeys) return { session: null, why: "no-keys" };
    throw error;
  }
}

function toSession(answer: JsonAnswer): Session {
  const { body } = answer;
  if (!isRecord(body)) throw unreadable(answer, "It is no session.");
  const { name, scopes, expires_at, csrf_token } = body;
  const expiresAt = Date.parse(String(expires_at));
  const isKnown = typeof name === "string" && typeof csrf_token === "string";
  if (!isKnown || !Array.isArray(scopes) || Number.isNaN(expiresAt)) {
    throw unreadable(answer, "It is no session.");
  }
  setCsrfToken(csrf_token);
  return { name, scopes: scopes.map(String), expiresAt };
}

/** Return whether the service does not know this page's session any more. */
function isRefused(error: unknown): boolean {
  const isOther =
    error instanceof ApiError && error.problem.code === "csrf_token_missing";
  return isOther || isUnauthorized(error);
}

function isUnauthorized(error: unknown): boolean {
  return error instanceof ApiError && error.problem.code === "unauthorized";
}
