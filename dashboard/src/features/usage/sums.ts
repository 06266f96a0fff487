// Sums over rows: by day and in all. What cannot be read counts as no credits.
import { daysBetween } from "@/text/time";

import type { Day, Row, Totals } from "./period";

/** Ten years: a single wrong timestamp must not make a million bars. */
const MAX_DAYS = 3_660;

/** The sums of each day from the first to the last, days without messages too. */
export function sumByDay(rows: readonly Row[]): Day[] {
  const sums = new Map<string, Day>();
  for (const { day, hundredths } of rows) {
    if (day === null) continue;
    const sum = sums.get(day) ?? { day, hundredths: 0, messages: 0 };
    sum.hundredths += hundredths ?? 0;
    sum.messages += 1;
    sums.set(day, sum);
  }
  const used = [...sums.values()].sort((a, b) => (a.day < b.day ? -1 : 1));
  const [first, last] = [used.at(0), used.at(-1)];
  if (!first || !last) return [];
  const days = daysBetween(first.day, last.day, MAX_DAYS);
  if (!days.length) return used;
  return days.map((day) => sums.get(day) ?? { day, hundredths: 0, messages: 0 });
}

export function sumAll(rows: readonly Row[]): Totals {
  const totals: Totals = { hundredths: 0, messages: rows.length };
  for (const { hundredths } of rows) totals.hundredths += hundredths ?? 0;
  return totals;
}

/** The names of all reports that priced a message, in alphabetical order. */
export function reportNames(rows: readonly Row[]): string[] {
  const names = new Set(rows.map((row) => row.reportName));
  names.delete("");
  return [...names].sort(new Intl.Collator("en").compare);
}
