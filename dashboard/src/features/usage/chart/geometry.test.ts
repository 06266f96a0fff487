import { describe, expect, test } from "vitest";

import type { Bucket } from "./buckets";
import { capacityOf, layOut, ticksOf } from "./geometry";

function bucketsOf(...parts: number[][]): Bucket[] {
  return parts.map((each, at) => ({
    from: `2024-05-${String(at + 1).padStart(2, "0")}`,
    to: "",
    hundredths: 0,
    messages: 1,
    parts: each,
  }));
}

describe("ticksOf", () => {
  test.each([
    [0, 100, [0, 25, 50, 75, 100]],
    [0, 7, [0, 2, 4, 6, 8]],
    [0, 0.03, [0, 0.01, 0.02, 0.03]],
    [-3.5, 2, [-4, -2, 0, 2]],
    [0, 0, [0, 1]],
  ])("between %d and %d are %j", (low, high, ticks) => {
    expect(ticksOf(low, high)).toEqual(ticks);
  });
});

describe("layOut", () => {
  test("stacks each bar without gaps from the zero line", () => {
    const { bars, bottom, top, lines } = layOut(bucketsOf([1_000, 0, 3_000], []), 400);
    const [first = [], second] = bars;
    expect(second).toEqual([]);
    expect(first.map(({ colour }) => colour)).toEqual([0, 2]);
    const [lower, upper] = first;
    expect(lower && lower.y + lower.height).toBeCloseTo(bottom);
    expect(upper && upper.y + upper.height).toBeCloseTo(lower?.y ?? 0);
    expect(upper?.y).toBeGreaterThanOrEqual(top);
    expect(lines[0]).toEqual({ text: "0", y: bottom });
  });

  test("draws negative credits below the zero line", () => {
    const { bars, lines } = layOut(bucketsOf([-350], [200]), 400);
    const zero = lines.find(({ text }) => text === "0")?.y;
    expect(bars[0]?.[0]?.y).toBeCloseTo(zero ?? 0);
    expect(bars[0]?.[0]?.height).toBeGreaterThan(0);
  });

  test.each([240, 340, 700, 1_100])("has no dates that overlap in %d px", (width) => {
    const parts = Array.from({ length: Math.min(31, capacityOf(width)) }, () => [100]);
    const { dates, left } = layOut(bucketsOf(...parts), width);
    const ends = dates
      .map(({ x, anchor }) => (anchor === "end" ? [x - 75, x] : [x - 37.5, x + 37.5]))
      .toSorted(([a = 0], [b = 0]) => a - b);
    expect(dates[0]?.at).toBe(parts.length - 1);
    expect(ends[0]?.[0]).toBeGreaterThanOrEqual(left);
    expect(ends.at(-1)?.[1]).toBeLessThanOrEqual(width);
    for (let at = 1; at < ends.length; at++) {
      expect(ends[at]?.[0]).toBeGreaterThan(ends[at - 1]?.[1] ?? 0);
    }
  });

  test("a month fits the smallest screen", () => {
    expect(capacityOf(270)).toBeGreaterThanOrEqual(31);
  });
});
