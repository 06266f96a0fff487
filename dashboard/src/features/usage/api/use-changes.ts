// `GET /usage/changes`: what changed in the current period since a revision.
import { isRecord } from "@/api/client";
import { toHundredths } from "@/text/credits";

import { useOptional } from "./use-optional";

export interface Changes {
  /** How many messages changed in each way, by the kind of the change. */
  counts: ReadonlyMap<string, number>;
  /** Whether there are more changes than were counted. */
  isCut: boolean;
  hundredthsBefore: number;
  hundredthsAfter: number;
}

const MAX_CHANGES = 4096;

interface Since {
  period: string;
  revision: number;
}

export function useChanges(since: Since | null) {
  return useOptional("changes", {
    parameters: {
      period: since?.period ?? null,
      since: since && String(since.revision),
      limit: String(MAX_CHANGES),
    },
    read: readChanges,
    isWanted: since !== null,
  });
}

function readChanges(body: Record<string, unknown>): Changes | null {
  const hundredthsBefore = toHundredths(body.credits_before);
  const hundredthsAfter = toHundredths(body.credits_after);
  if (hundredthsBefore === null || hundredthsAfter === null) return null;
  const changes: unknown[] = Array.isArray(body.changes) ? body.changes : [];
  const counts = new Map<string, number>();
  for (const change of changes) {
    const kind = isRecord(change) && typeof change.kind === "string" ? change.kind : "";
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  const isCut = changes.length >= MAX_CHANGES;
  return { counts, isCut, hundredthsBefore, hundredthsAfter };
}
