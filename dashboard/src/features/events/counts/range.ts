// The range of time of the counts, as the address names it.
import { dayOf, isDay } from "@/text/time";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** A range of so many hours still has a bar for each. */
const MAX_HOURLY = 4 * 24;
/** The service counts hours of so many days at most. */
export const MAX_DAYS = 400;

export const RANGES = [
  { name: "day", title: "Last 24 hours", ms: DAY_MS },
  { name: "week", title: "Last 7 days", ms: 7 * DAY_MS },
  { name: "month", title: "Last 30 days", ms: 30 * DAY_MS },
  { name: "year", title: "Last 365 days", ms: 365 * DAY_MS },
  { name: "dates", title: "From a day to a day", ms: null },
] as const;

export type RangeName = (typeof RANGES)[number]["name"];

export interface Range {
  name: RangeName;
  /** ISO 8601; `to` is exclusive. */
  from: string;
  to: string;
  bucket: "hour" | "day";
}

/** Why a range of two days cannot be shown. */
export type RangeError = "missing" | "reversed" | "too-long";

/**
 * Return the range of an address at a moment, or what is wrong with it.
 *
 * Ranges end with whole hours or days, so that equal ranges are asked for once.
 */
export function rangeOf(address: URLSearchParams, now: number): Range | RangeError {
  const named = RANGES.find(({ name }) => name === address.get("range")) ?? RANGES[1];
  if (named.ms === null) return datesOf(address);
  const bucket = named.ms > MAX_HOURLY * HOUR_MS ? "day" : "hour";
  const unit = bucket === "day" ? DAY_MS : HOUR_MS;
  const end = Math.ceil(now / unit) * unit;
  return {
    name: named.name,
    from: new Date(end - named.ms).toISOString(),
    to: new Date(end).toISOString(),
    bucket,
  };
}

function datesOf(address: URLSearchParams): Range | RangeError {
  const [first, last] = [address.get("from") ?? "", address.get("to") ?? ""];
  if (!isDay(first) || !isDay(last)) return "missing";
  const [start, end] = [Date.parse(first), Date.parse(last) + DAY_MS];
  if (end <= start) return "reversed";
  if (end - start > MAX_DAYS * DAY_MS) return "too-long";
  return {
    name: "dates",
    from: new Date(start).toISOString(),
    to: new Date(end).toISOString(),
    bucket: end - start > MAX_HOURLY * HOUR_MS ? "day" : "hour",
  };
}

export interface Bar {
  /** `2024-04-29` or `2024-04-29T02:00Z`. */
  start: string;
  events: number;
}

/** Return a bar for each hour or day of a range, those without events too. */
export function barsOf(
  counts: readonly { value: string; events: number }[],
  range: Range,
): Bar[] {
  const keyOf = (value: string) =>
    range.bucket === "day" ? value.slice(0, 10) : value;
  const sums = new Map<string, number>();
  for (const { value, events } of counts) {
    const key = keyOf(value);
    sums.set(key, (sums.get(key) ?? 0) + events);
  }
  const unit = range.bucket === "day" ? DAY_MS : HOUR_MS;
  const bars: Bar[] = [];
  for (let at = Date.parse(range.from); at < Date.parse(range.to); at += unit) {
    const iso = new Date(at).toISOString();
    const start = range.bucket === "day" ? dayOf(at) : `${iso.slice(0, 16)}Z`;
    bars.push({ start, events: sums.get(start) ?? 0 });
  }
  return bars;
}

/** Return a round number at or above a count, and half of it as a whole number. */
export function topOf(max: number): number {
  if (max <= 2) return 2;
  const power = 10 ** Math.floor(Math.log10(max));
  const steps = [1, 2, 4, 6, 8, 10].map((each) => each * power);
  return steps.find((each) => each >= max && each % 2 === 0) ?? 10 * power;
}
