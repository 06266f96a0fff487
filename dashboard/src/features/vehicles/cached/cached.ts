// Cached vehicles: pages of the list, and the removal of one.
import {
  keepPreviousData,
  useMutation,
  useQuery,
  useQueryClient,
} from "@tanstack/react-query";

import { getJson, isRecord, request } from "@/api/client";
import { toPage } from "@/api/lists";
import type { components } from "@/api/schema";

export type CachedVehicle = components["schemas"]["CachedVehicle"];

export const PAGE_SIZE = 100;
const QUERY = "cached-vehicles";

/** Values to search for; null is any. */
export interface CachedFilter {
  vin: string | null;
  make: string | null;
  model: string | null;
  year: string | null;
}

export function useCached(filter: CachedFilter, cursor: string | null) {
  const parameters = { ...filter, limit: String(PAGE_SIZE), cursor };
  return useQuery({
    queryKey: [QUERY, parameters],
    queryFn: async ({ signal }) =>
      toPage<CachedVehicle>(await getJson("/vehicles", parameters, signal), "vehicles"),
    placeholderData: keepPreviousData,
  });
}

export interface Forgotten {
  vin: string;
  wasCached: boolean;
}

export function useForget() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: async (vin: string): Promise<Forgotten> => {
      const { body } = await request("/vehicles/remove", {
        method: "DELETE",
        parameters: { vin },
        signal: AbortSignal.timeout(30_000),
      });
      return { vin, wasCached: isRecord(body) && body.cache_delete_success === true };
    },
    onSuccess: () => client.invalidateQueries({ queryKey: [QUERY] }),
  });
}
