import { describe, expect, test } from "vitest";

import { datesOf, linesOf } from "./chart-scale";
import type { Day } from "./period";

function daysFrom(first: string, credits: readonly number[]): Day[] {
  return credits.map((credit, at) => ({
    day: new Date(Date.parse(first) + at * 86_400_000).toISOString().slice(0, 10),
    hundredths: credit * 100,
    messages: 1,
  }));
}

describe("linesOf", () => {
  test("has round numbers from nothing to above the highest bar", () => {
    const lines = linesOf(daysFrom("2024-04-29", [5, 128.15]));
    expect(lines.at(0)).toEqual({ credits: 0, percent: 0 });
    expect(lines.at(-1)?.percent).toBe(100);
    expect(lines.at(-1)?.credits).toBeGreaterThanOrEqual(128.15);
  });

  test("has a line at nothing where no day used anything", () => {
    expect(linesOf(daysFrom("2024-04-29", [0, 0]))).toEqual([
      { credits: 0, percent: 0 },
    ]);
  });

  test("reaches below nothing where a day was paid back", () => {
    expect(linesOf(daysFrom("2024-04-29", [-20, 50])).at(0)?.credits).toBeLessThan(0);
  });
});

describe("datesOf", () => {
  test("names a single day, in its middle", () => {
    expect(datesOf(daysFrom("2024-04-29", [1]))).toEqual([
      { day: "2024-04-29", text: "29 Apr", percent: 50, end: null },
    ]);
  });

  test.each([31, 122, 366])("has room for each of its dates over %d days", (count) => {
    const dates = datesOf(daysFrom("2023-01-01", Array<number>(count).fill(1)));
    expect(dates.at(0)?.day).toBe("2023-01-01");
    expect(dates.length).toBeGreaterThan(4);
    expect(dates.length).toBeLessThanOrEqual(Math.max(10, count / 11));
  });

  test("keeps dates at the ends within the chart", () => {
    const dates = datesOf(daysFrom("2024-01-01", Array<number>(91).fill(1)));
    expect([dates.at(0)?.end, dates.at(4)?.end, dates.at(-1)?.end]).toEqual([
      "first",
      null,
      "last",
    ]);
  });

  test("says the year where there is more than one", () => {
    const dates = datesOf(daysFrom("2023-12-31", [1, 1]));
    expect(dates.map(({ text }) => text)).toEqual(["31 Dec 2023", "1 Jan 2024"]);
  });
});
