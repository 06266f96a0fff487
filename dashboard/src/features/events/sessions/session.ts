// One session: its events in order, and those that failed.
import { useQuery } from "@tanstack/react-query";

import { getJson, isRecord, request, unreadable } from "@/api/client";
import { toItems } from "@/api/lists";
import type { components } from "@/api/schema";
import { readInstant } from "@/text/time";

import type { Application } from "../application";
import { parseExact } from "../failed/exact-json";
import type { FailedEvent } from "../failed/failed-events";

export type StoredEvent = Omit<components["schemas"]["StoredEvent"], "data"> & {
  data: unknown;
};

export interface EventSession {
  first: string;
  last: string;
  count: number;
  /** At most the first 10,000. */
  events: StoredEvent[];
}

export function useEventSession(application: Application, session: string | null) {
  return useQuery({
    queryKey: ["session-events", application, session],
    enabled: session !== null,
    queryFn: async ({ signal }): Promise<EventSession> => {
      const path = `/sessions/${encodeURIComponent(session ?? "")}`;
      const parameters = { application };
      const answer = await request(path, { parameters, signal, parse: parseExact });
      const { body } = answer;
      if (!isRecord(body)) throw unreadable(answer, "It is no session.");
      return {
        first: String(body.first),
        last: String(body.last),
        count: Number(body.number_of_events),
        events: toItems<StoredEvent>(answer, "events"),
      };
    },
  });
}

/** Ask for the failed events of a session, the first hundred. */
export function useFailedOfSession(application: Application, session: string | null) {
  return useQuery({
    queryKey: ["failed", "session", application, session],
    enabled: session !== null,
    queryFn: async ({ signal }) => {
      const parameters = { application, session_id: session };
      const answer = await getJson("/events/failed", parameters, signal);
      return toItems<FailedEvent>(answer, "failed");
    },
  });
}

/** `+0:05`, `+1:02:03`: the time from one timestamp to another. */
export function formatOffset(from: string, to: string): string {
  const [start, end] = [readInstant(from), readInstant(to)];
  if (start === null || end === null) return "";
  const seconds = Math.max(0, Math.round((end - start) / 1000));
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const rest = String(seconds % 60).padStart(2, "0");
  if (hours === 0) return `+${minutes}:${rest}`;
  return `+${hours}:${String(minutes).padStart(2, "0")}:${rest}`;
}
