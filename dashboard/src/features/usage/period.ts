// The nouns of the period: its rows as the page holds them, and their sums.
import { dayOf, formatInstant } from "@/text/time";
import { wallClock } from "@/text/zones";

/** One message; `position` is its place in the service's order, and its key. */
export interface Row {
  position: number;
  /** As the service sends it: any JSON number or text, as text. */
  messageId: string;
  /** Milliseconds since 1970; null where the timestamp cannot be read. */
  instant: number | null;
  /** `29-04-2024 03:25` in the zone of the view; verbatim where it cannot be read. */
  timestamp: string;
  /** Its day in the zone, `2024-04-29`; null where the timestamp cannot be read. */
  day: string | null;
  /** Empty where no report priced the message. */
  reportName: string;
  /** Credits in hundredths; null where they cannot be read. */
  hundredths: number | null;
}

/** The period as one answer of the service has it. */
export interface Period {
  rows: readonly Row[];
  /** Rows of which something could not be read. */
  unreadable: number;
  /** The plan that priced it, with its version; null where the service names none. */
  plan: string | null;
  /** Messages priced by text because their report could not be had. */
  degraded: number;
  /** Id of the kept period, the date of its first message; null if none is kept. */
  id: string | null;
  /** Whether messages may be added. */
  isOpen: boolean;
}

/** The credits and messages of one day. */
export interface Day {
  day: string;
  hundredths: number;
  messages: number;
}

export interface Totals {
  hundredths: number;
  messages: number;
}

/** Days from the first to the last, both included. */
export interface DayRange {
  from: string;
  to: string;
}

/** Return the rows with the timestamps and days of a zone; they were read in UTC. */
export function localize(rows: readonly Row[], zone: string): readonly Row[] {
  if (zone === "UTC") return rows;
  const clock = wallClock(zone);
  return rows.map((row) => {
    if (row.instant === null) return row;
    const local = clock(row.instant);
    return { ...row, timestamp: formatInstant(local), day: dayOf(local) };
  });
}
