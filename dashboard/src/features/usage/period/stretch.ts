// The days that the chart shows at once: all of a billing period, a year of a longer one.
import type { Day } from "./period";

export const MOST_DAYS_AT_ONCE = 366;

export interface Stretch {
  days: readonly Day[];
  hasEarlier: boolean;
  hasLater: boolean;
}

/** The number of the last stretch; the first is 0. */
export function lastStretch(days: readonly Day[]): number {
  return Math.max(0, Math.ceil(days.length / MOST_DAYS_AT_ONCE) - 1);
}

/** The number of the stretch with that day; the last where there is none. */
export function stretchWith(days: readonly Day[], day: string | null): number {
  const at = day === null ? -1 : days.findIndex((each) => each.day === day);
  return at < 0 ? lastStretch(days) : Math.floor(at / MOST_DAYS_AT_ONCE);
}

export function stretchAt(days: readonly Day[], number: number): Stretch {
  const start = number * MOST_DAYS_AT_ONCE;
  return {
    days: days.slice(start, start + MOST_DAYS_AT_ONCE),
    hasEarlier: number > 0,
    hasLater: number < lastStretch(days),
  };
}
