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

/** `+0:05`, `+1:02:03`, `+4 d 10:51`: the time from one timestamp to another. */
export function formatOffset(from: string, to: string): string {
  const [start, end] = [readInstant(from), readInstant(to)];
  if (start === null || end === null) return "";
  const total = Math.max(0, Math.round((end - start) / 1000));
  const [seconds, minutes] = [total % 60, Math.floor(total / 60) % 60];
  const [hours, days] = [Math.floor(total / 3600) % 24, Math.floor(total / 86_400)];
  if (days > 0) return `+${days} d ${twoDigits(hours)}:${twoDigits(minutes)}`;
  if (hours > 0) return `+${hours}:${twoDigits(minutes)}:${twoDigits(seconds)}`;
  return `+${minutes}:${twoDigits(seconds)}`;
}

function twoDigits(number: number): string {
  return String(number).padStart(2, "0");
}
