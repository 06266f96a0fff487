// Failed events: groups of them, pages of a group, and single ones.
import { keepPreviousData, useQuery } from "@tanstack/react-query";

import { getJson, isRecord, request, type Parameters } from "@/api/client";
import { toItems, toPage } from "@/api/lists";
import type { components } from "@/api/schema";

import type { Application } from "../application";
import { parseExact } from "./exact-json";

export type FailedGroup = components["schemas"]["FailedGroup"];
export type EventError = components["schemas"]["EventError"];
/** `event` is a text where not every JSON reader accepts it. */
export type FailedEvent = Omit<components["schemas"]["FailedEvent"], "event"> & {
  event: unknown;
};

export const PAGE_SIZE = 25;
const MAX_GROUPS = "1000";

/** The failed events of a group, as parameters of requests select them. */
export interface Selection {
  application: Application;
  code: string | null;
  category: string | null;
  name: string | null;
  /** True for events whose category or name could not be read. */
  isUntyped: boolean;
  /** One failed event. */
  id: string | null;
}

export function parametersOf(selection: Selection): Parameters {
  const { application, code, category, name, isUntyped, id } = selection;
  return {
    application,
    code,
    category,
    name,
    untyped: isUntyped ? "true" : null,
    id,
  };
}

/** Return the parameters as the members of a body, which knows no empty ones. */
export function bodyOf(selection: Selection): Record<string, unknown> {
  const { untyped, ...texts } = parametersOf(selection);
  const given = Object.entries(texts).filter(([, value]) => value !== null);
  return { ...Object.fromEntries(given), ...(untyped ? { untyped: true } : {}) };
}

export function useGroups(application: Application) {
  return useQuery({
    queryKey: ["failed", "groups", application],
    queryFn: async ({ signal }) => {
      const parameters = { application, limit: MAX_GROUPS };
      const answer = await getJson("/events/failed/groups", parameters, signal);
      const groups = toItems<FailedGroup>(answer, "groups");
      const isCut = isRecord(answer.body) && answer.body.more === true;
      return { groups, isCut };
    },
  });
}

export function useFailedPage(selection: Selection, cursor: string | null) {
  const parameters = {
    ...parametersOf(selection),
    limit: String(PAGE_SIZE),
    cursor,
  };
  return useQuery({
    queryKey: ["failed", "page", parameters],
    queryFn: async ({ signal }) =>
      toPage<FailedEvent>(
        await request("/events/failed", { parameters, signal, parse: parseExact }),
        "failed",
      ),
    placeholderData: keepPreviousData,
  });
}
