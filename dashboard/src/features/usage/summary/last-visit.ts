// The revision of the figures that this browser showed last, kept between visits.
import { useEffect, useState } from "react";

import { isRecord } from "@/api/client";

const KEY = "copilot-usage.last-visit";

export interface Visit {
  period: string;
  revision: number;
  /** Milliseconds since 1970. */
  at: number;
}

/** What is shown, where it is known: id and revision of a kept period. */
interface Shown {
  id: string | null;
  revision: number | null;
}

/** Return the visit before this one, and keep the present one for the next. */
export function useLastVisit({ id, revision }: Shown) {
  const [before] = useState(read);
  useEffect(() => {
    if (id !== null && revision !== null)
      write({ period: id, revision, at: Date.now() });
  }, [id, revision]);
  return before;
}

/** Storage may be switched off, and its content is untrusted. */
function read(): Visit | null {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(KEY) ?? "null");
    if (!isRecord(kept)) return null;
    const { period, revision, at } = kept;
    const isWhole =
      typeof period === "string" &&
      Number.isSafeInteger(revision) &&
      Number.isSafeInteger(at);
    return isWhole ? { period, revision: Number(revision), at: Number(at) } : null;
  } catch {
    return null;
  }
}

function write(visit: Visit): void {
  try {
    localStorage.setItem(KEY, JSON.stringify(visit));
  } catch {
    // The next visit has nothing to compare with.
  }
}
