// The bars of the chart: the credits of each day or week, apart by the colour of the
// report, or added up.
import { addDays, weekdayOf } from "@/text/time";

import type { DayRange, Row } from "../period";
import { COLOURS } from "../reports";
import type { ChartStep } from "../view/view";

/** One bar; `parts` has hundredths of credits by colour, `(COLOURS,)`. */
export interface Bucket extends DayRange {
  hundredths: number;
  messages: number;
  parts: readonly number[];
}

interface Options {
  /** All days of the period, in order, those without messages too. */
  days: readonly string[];
  step: ChartStep;
  colourOf: (reportName: string) => number;
}

interface Sum {
  hundredths: number;
  messages: number;
  parts: number[];
}

export function bucketsOf(rows: readonly Row[], options: Options): Bucket[] {
  const { days, step, colourOf } = options;
  const sums = new Map(days.map((day) => [day, emptySum()]));
  for (const { day, hundredths, reportName } of rows) {
    const sum = day === null ? undefined : sums.get(day);
    if (!sum) continue;
    const colour = colourOf(reportName);
    sum.hundredths += hundredths ?? 0;
    sum.messages += 1;
    sum.parts[colour] = (sum.parts[colour] ?? 0) + (hundredths ?? 0);
  }
  const daily = days.map((day) => ({
    from: day,
    to: day,
    ...(sums.get(day) ?? emptySum()),
  }));
  if (step === "week") return byWeek(daily);
  return step === "total" ? addUp(daily) : daily;
}

function emptySum(): Sum {
  return { hundredths: 0, messages: 0, parts: Array<number>(COLOURS).fill(0) };
}

/** Weeks from Monday to Sunday; the first and the last may be shorter. */
function byWeek(daily: readonly Bucket[]): Bucket[] {
  const weeks = new Map<string, Bucket>();
  for (const day of daily) {
    const monday = addDays(day.from, -weekdayOf(day.from));
    const week = weeks.get(monday);
    weeks.set(monday, week ? { ...add(week, day), from: week.from, to: day.to } : day);
  }
  return [...weeks.values()];
}

function addUp(daily: readonly Bucket[]): Bucket[] {
  let before: Sum = emptySum();
  return daily.map((day) => {
    const sum = add(before, day);
    before = sum;
    return { ...sum, from: day.from, to: day.to };
  });
}

function add(a: Omit<Bucket, "from" | "to">, b: Bucket): Sum {
  return {
    hundredths: a.hundredths + b.hundredths,
    messages: a.messages + b.messages,
    parts: a.parts.map((part, at) => part + (b.parts[at] ?? 0)),
  };
}
