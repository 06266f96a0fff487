// Parts of the page that a service may lack: kept periods, changes, budgets, forecast.
// A part that is not offered, or fails, is left out.
import { useQuery } from "@tanstack/react-query";

import { getJson, isRecord, type Parameters } from "@/api/client";

type Name = "periods" | "changes" | "budgets" | "forecast";

export interface Optional<Part> {
  /** Null while it is not known, and where there is none. */
  part: Part | null;
  /** Whether it is known that there is one, or none. */
  isSettled: boolean;
}

interface Options<Part> {
  parameters: Parameters;
  /** Reads the body; null where it is not readable. */
  read: (body: Record<string, unknown>) => Part | null;
  /** False where the part does not fit the view. */
  isWanted: boolean;
}

const REFETCH_MS = 60_000;

/** Request a part, if the service lists it at `/`. */
export function useOptional<Part>(name: Name, options: Options<Part>): Optional<Part> {
  const { parameters, read, isWanted } = options;
  const links = useQuery({
    queryKey: ["links"],
    queryFn: async ({ signal }) => {
      const { body } = await getJson("/", {}, signal);
      return isRecord(body) && isRecord(body.links) ? body.links : {};
    },
    staleTime: Infinity,
    retry: false,
  });
  const path = links.data?.[name];
  const isEnabled = isWanted && typeof path === "string";
  const answer = useQuery({
    queryKey: [name, parameters],
    queryFn: async ({ signal }) => {
      const { body } = await getJson(String(path), parameters, signal);
      return isRecord(body) ? read(body) : null;
    },
    enabled: isEnabled,
    staleTime: REFETCH_MS,
    refetchInterval: REFETCH_MS,
    retry: false,
  });
  return {
    part: isEnabled ? (answer.data ?? null) : null,
    isSettled: !isWanted || (isEnabled ? answer.isFetched : links.isFetched),
  };
}
