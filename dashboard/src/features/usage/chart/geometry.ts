// Where the chart's lines, bars and dates are, in the units of its view box. A unit is a
// CSS pixel on the screen; on paper the drawing is scaled as a whole.
import type { Bucket } from "./buckets";

export const HEIGHT = 240;
const TOP = 12;
const BOTTOM = 28;
const CHARACTER = 7;
const LINES = 5;
/** `29-04-2024` and a gap. */
const DATE_WIDTH = 92;
const NARROWEST_COLUMN = 6;
const WIDEST_BAR = 64;
const BAR_SHARE = 0.8;

const SHORT = new Intl.NumberFormat("en", {
  notation: "compact",
  maximumFractionDigits: 2,
});

export interface Line {
  text: string;
  y: number;
}

export interface Segment {
  colour: number;
  y: number;
  height: number;
}

export interface Geometry {
  width: number;
  /** The left end of the bars. */
  left: number;
  /** The bottom of the bars, and their top. */
  bottom: number;
  top: number;
  columnWidth: number;
  barWidth: number;
  lines: Line[];
  /** Of each bucket, from the zero line up, then those of negative credits down. */
  bars: Segment[][];
  /** Buckets whose date is written below. */
  dates: { at: number; x: number; anchor: "middle" | "end" }[];
}

/** Return how many bars fit a chart of this width. */
export function capacityOf(width: number): number {
  return Math.max(7, Math.floor((width - 64) / NARROWEST_COLUMN));
}

export function layOut(buckets: readonly Bucket[], width: number): Geometry {
  const ups = buckets.map(({ parts }) => sumOf(parts.map((part) => Math.max(0, part))));
  const downs = buckets.map(({ parts }) =>
    sumOf(parts.map((part) => Math.min(0, part))),
  );
  const ticks = ticksOf(Math.min(0, ...downs) / 100, Math.max(0, ...ups) / 100);
  const [low = 0, high = 1] = [ticks.at(0), ticks.at(-1)];
  const [top, bottom] = [TOP, HEIGHT - BOTTOM];
  const scale = (bottom - top) / (high - low || 1);
  const yOf = (credits: number) => bottom - (credits - low) * scale;
  const lines = ticks.map((tick) => ({ text: SHORT.format(tick), y: yOf(tick) }));
  const left = Math.max(...lines.map(({ text }) => text.length)) * CHARACTER + 10;
  const columnWidth = (width - left - 2) / Math.max(1, buckets.length);
  return {
    width,
    left,
    top,
    bottom,
    columnWidth,
    barWidth: Math.min(WIDEST_BAR, columnWidth * BAR_SHARE),
    lines,
    bars: buckets.map(({ parts }) => stack(parts, yOf)),
    dates: datesOf(buckets.length, left, columnWidth),
  };
}

function stack(parts: readonly number[], yOf: (credits: number) => number): Segment[] {
  let [up, down] = [0, 0];
  return parts.flatMap((part, colour) => {
    if (part === 0) return [];
    const start = part > 0 ? up : down;
    const end = start + part / 100;
    if (part > 0) up = end;
    else down = end;
    const [y, other] = [yOf(Math.max(start, end)), yOf(Math.min(start, end))];
    return [{ colour, y, height: other - y }];
  });
}

/** Round numbers from below the lowest value to above the highest one. */
export function ticksOf(low: number, high: number): number[] {
  if (low === high) return [0, 1];
  const raw = (high - low) / (LINES - 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 2.5, 5].find((each) => each * power >= raw) ?? 10) * power;
  const first = Math.floor(low / step);
  const count = Math.ceil(high / step) - first;
  return Array.from({ length: count + 1 }, (_, at) => (first + at) * step);
}

/** Dates at equal distances, from the newest bar back; none overlaps another. */
function datesOf(count: number, left: number, columnWidth: number): Geometry["dates"] {
  const every = Math.max(1, Math.ceil(DATE_WIDTH / columnWidth));
  const right = left + count * columnWidth;
  const dates: Geometry["dates"] = [];
  let free = right;
  for (let at = count - 1; at >= 0; at -= every) {
    const middle = left + (at + 0.5) * columnWidth;
    const isLast = middle + DATE_WIDTH / 2 > right;
    const start = isLast ? right - DATE_WIDTH : middle - DATE_WIDTH / 2;
    if (start < left || start + DATE_WIDTH > free) continue;
    free = start;
    dates.push(
      isLast ? { at, x: right, anchor: "end" } : { at, x: middle, anchor: "middle" },
    );
  }
  return dates;
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
