// The nouns of the period: its rows as the page holds them, and their sums.

/** One message; `position` is its place in the service's order, and its key. */
export interface Row {
  position: number;
  /** As the service tells it: any JSON number or text, as text. */
  messageId: string;
  /** `29-04-2024 03:25` in UTC; verbatim where it cannot be read. */
  timestamp: string;
  /** Its UTC day, `2024-04-29`; null where the timestamp cannot be read. */
  day: string | null;
  /** Empty where no report priced the message. */
  reportName: string;
  /** Credits in hundredths; null where they cannot be read. */
  hundredths: number | null;
}

/** The period as one answer of the service tells it. */
export interface Period {
  rows: readonly Row[];
  /** Rows of which something could not be read. */
  unreadable: number;
  /** The plan that priced it, with its version; null where the service names none. */
  plan: string | null;
  /** Messages priced by text because their report could not be had. */
  degraded: number;
}

/** The credits and messages of one UTC day. */
export interface Day {
  day: string;
  hundredths: number;
  messages: number;
}

export interface Totals {
  hundredths: number;
  messages: number;
  /** Messages that a report priced. */
  byReport: number;
}
