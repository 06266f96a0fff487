// The application whose events are shown: that of the key, another one, or all.
import { useQuery } from "@tanstack/react-query";

import { getJson, isRecord } from "@/api/client";

/** Whose events a request reads; null is the application of the key. */
export type Application = string | null;

/** The parameter that means all applications. */
export const ALL = "*";

/** Ask for the applications that have events, if the session may know them. */
export function useApplications(isEnabled: boolean) {
  return useQuery({
    queryKey: ["applications"],
    enabled: isEnabled,
    queryFn: async ({ signal }) => {
      const { body } = await getJson("/applications", {}, signal);
      const names: unknown = isRecord(body) ? body.applications : [];
      return Array.isArray(names) ? names.map(String) : [];
    },
  });
}
