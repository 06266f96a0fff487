// Where the chart's lines and dates stand.
import { getNiceTickValues } from "recharts";

import { formatShortDay } from "@/text/time";

import type { Day } from "./period";

/** As many lines as Recharts reckons with for an axis that nobody has set. */
const LINES = 5;
const FEWEST_DATES = 10;
const DAYS_PER_DATE = 12;
const END_PERCENT = 4;

/** A line across the chart: its credits, and its height in per cent of the chart. */
export interface Line {
  credits: number;
  percent: number;
}

/** A date below the chart, and where its day is in per cent of the chart's width. */
export interface DateLabel {
  day: string;
  text: string;
  percent: number;
  /** Where it has to keep within the chart. */
  end: "first" | "last" | null;
}

/** Lines at round numbers, the same that the bars' heights are reckoned by. */
export function linesOf(days: readonly Day[]): Line[] {
  const credits = days.map((day) => day.hundredths / 100);
  const low = Math.min(0, ...credits);
  const high = Math.max(0, ...credits);
  if (low === high) return [{ credits: 0, percent: 0 }];
  const ticks = getNiceTickValues([low, high], LINES);
  const [first, last] = [ticks.at(0) ?? low, ticks.at(-1) ?? high];
  return ticks.map((tick) => ({
    credits: tick,
    percent: ((tick - first) / (last - first)) * 100,
  }));
}

/** Dates at equal distances, the first day's first; with the year where it changes. */
export function datesOf(days: readonly Day[]): DateLabel[] {
  const wanted = Math.max(FEWEST_DATES, Math.ceil(days.length / DAYS_PER_DATE));
  const distance = Math.ceil(days.length / wanted);
  const years = new Set(days.map(({ day }) => day.slice(0, 4)));
  return days.flatMap(({ day }, at) => {
    if (at % distance !== 0) return [];
    const text = formatShortDay(day) + (years.size > 1 ? ` ${day.slice(0, 4)}` : "");
    const percent = ((at + 0.5) / days.length) * 100;
    return [{ day, text, percent, end: endOf(percent) }];
  });
}

function endOf(percent: number): DateLabel["end"] {
  if (percent < END_PERCENT) return "first";
  return percent > 100 - END_PERCENT ? "last" : null;
}
