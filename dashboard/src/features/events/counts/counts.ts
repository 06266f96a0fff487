// Numbers of events: by hour, and of the most frequent categories and names.
import { keepPreviousData, useQuery } from "@tanstack/react-query";

import { getJson, isRecord } from "@/api/client";
import { toItems } from "@/api/lists";

export interface Count {
  value: string;
  events: number;
}

export interface Counts {
  counts: Count[];
  /** Events with other values. */
  other: number;
}

export interface CountFilter {
  application: string | null;
  category: string | null;
  name: string | null;
  from: string;
  to: string;
}

export function useCounts(
  by: "hour" | "name" | "category" | "error",
  filter: CountFilter | null,
) {
  return useQuery({
    queryKey: ["counts", by, filter],
    enabled: filter !== null,
    queryFn: async ({ signal }): Promise<Counts> => {
      const limit = by === "hour" ? null : "20";
      const parameters = { ...filter, by, limit };
      const answer = await getJson("/events/stats", parameters, signal);
      const other = isRecord(answer.body) ? Number(answer.body.other ?? 0) : 0;
      return { counts: toItems<Count>(answer, "counts"), other };
    },
    placeholderData: keepPreviousData,
  });
}
