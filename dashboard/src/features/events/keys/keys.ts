// API keys: the list, a new one, and the revocation of one.
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";

import { getJson, isRecord, request, unreadable } from "@/api/client";
import { toItems } from "@/api/lists";
import type { components } from "@/api/schema";

export type Key = components["schemas"]["KeyItem"];

const QUERY = ["keys"];

export const SCOPES = [
  { name: "events:write", title: "Send events" },
  { name: "events:read", title: "Read the events of its application" },
  { name: "events:read-all", title: "Read the events of all applications" },
  { name: "events:manage", title: "Replay and discard failed events" },
  { name: "usage:read", title: "Read the usage" },
  { name: "usage:manage", title: "Change budgets and periods" },
  { name: "vehicles:read", title: "Look up and export vehicles" },
  { name: "vehicles:manage", title: "Remove vehicles from the cache" },
  { name: "metrics:read", title: "Read the metrics" },
  { name: "admin", title: "Make keys, and operate the service" },
] as const;

export type Scope = (typeof SCOPES)[number]["name"];

export interface NewKey {
  name: string;
  scopes: Scope[];
  ratePerS: number | null;
}

export interface CreatedKey {
  name: string;
  /** The secret, which no other answer has. */
  key: string;
}

export function useKeys() {
  return useQuery({
    queryKey: QUERY,
    queryFn: async ({ signal }) =>
      toItems<Key>(await getJson("/keys", {}, signal), "keys"),
  });
}

export function useAddKey() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: async ({ name, scopes, ratePerS }: NewKey): Promise<CreatedKey> => {
      const answer = await request("/keys", {
        method: "POST",
        body: { name, scopes, ...(ratePerS === null ? {} : { rate_per_s: ratePerS }) },
        signal: AbortSignal.timeout(30_000),
      });
      const { body } = answer;
      if (!isRecord(body) || typeof body.key !== "string") {
        throw unreadable(answer, "It has no key.");
      }
      return { name, key: body.key };
    },
    onSuccess: () => client.invalidateQueries({ queryKey: QUERY }),
    // Or the secret would stay in the memory of the page.
    gcTime: 0,
  });
}

export function useRevokeKey() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (id: string) =>
      request(`/keys/${encodeURIComponent(id)}`, {
        method: "DELETE",
        signal: AbortSignal.timeout(30_000),
      }),
    onSettled: () => client.invalidateQueries({ queryKey: QUERY }),
  });
}
