// A replay or a discard of many failed events, in the steps of the service.
import { isRecord, request, unreadable } from "@/api/client";

import { bodyOf, type Selection } from "./failed-events";

export type RunKind = "replay" | "discard";

const STEP_SIZE = 1_000;
/** The service counts no more than so many remaining events. */
export const MAX_COUNTED = 10_000;

export interface Progress {
  accepted: number;
  duplicates: number;
  failed: number;
  discarded: number;
  /** Events after the last step; null before the first one. */
  remaining: number | null;
  /** Where the next step begins; null before the first step and after the last. */
  next: string | null;
}

export const NOTHING_DONE: Progress = {
  accepted: 0,
  duplicates: 0,
  failed: 0,
  discarded: 0,
  remaining: null,
  next: null,
};

/** Return the number of events that the steps have dealt with. */
export function doneOf(progress: Progress): number {
  const { accepted, duplicates, failed, discarded } = progress;
  return accepted + duplicates + failed + discarded;
}

/** Return the done share in percent; null while the rest is not counted. */
export function percentOf(progress: Progress): number | null {
  const { remaining } = progress;
  if (remaining === null || remaining >= MAX_COUNTED) return null;
  const done = doneOf(progress);
  return done + remaining === 0 ? 100 : Math.floor((100 * done) / (done + remaining));
}

/**
 * Repeat steps until all events are done, and yield the progress after each.
 *
 * A run that continues an earlier one begins behind the events of `before`: events that
 * are still invalid would be replayed and counted again. An aborted run ends with the step that is under way; what it has done stays done.
 * Throws `ApiError`.
 */
export async function* run(
  kind: RunKind,
  selection: Selection,
  signal: AbortSignal,
  before: Progress = NOTHING_DONE,
): AsyncGenerator<Progress> {
  let progress = before;
  do {
    const answer = await request(`/events/failed/${kind}`, {
      method: "POST",
      body: { ...bodyOf(selection), limit: STEP_SIZE, cursor: progress.next },
      // A step that was sent is waited for: its result is part of the progress.
      signal: new AbortController().signal,
    });
    const { body } = answer;
    if (!isRecord(body)) throw unreadable(answer, "It is no step.");
    progress = added(progress, body);
    yield progress;
  } while (progress.next !== null && !signal.aborted);
}

function added(progress: Progress, step: Record<string, unknown>): Progress {
  const sum = (name: "accepted" | "duplicates" | "failed" | "discarded") =>
    progress[name] + Number(step[name] ?? 0);
  return {
    accepted: sum("accepted"),
    duplicates: sum("duplicates"),
    failed: sum("failed"),
    discarded: sum("discarded"),
    remaining: Number(step.remaining ?? 0),
    next: typeof step.next === "string" ? step.next : null,
  };
}
