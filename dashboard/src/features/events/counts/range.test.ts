import { describe, expect, test } from "vitest";

import { barsOf, rangeOf, topOf, type Range } from "./range";

const NOW = Date.parse("2024-05-02T08:20:00Z");
const rangeIn = (query: string) => rangeOf(new URLSearchParams(query), NOW);

describe("a range", () => {
  test("of a day has the last 24 hours, the current one included", () => {
    expect(rangeIn("range=day")).toEqual({
      name: "day",
      from: "2024-05-01T09:00:00.000Z",
      to: "2024-05-02T09:00:00.000Z",
      bucket: "hour",
    });
  });

  test.each(["", "range=week", "range=nonsense"])(
    "of %o has seven days, today included",
    (query) =>
      expect(rangeIn(query)).toMatchObject({
        from: "2024-04-26T00:00:00.000Z",
        to: "2024-05-03T00:00:00.000Z",
        bucket: "day",
      }),
  );

  test("of two days includes both", () => {
    expect(rangeIn("range=dates&from=2024-02-28&to=2024-03-01")).toMatchObject({
      from: "2024-02-28T00:00:00.000Z",
      to: "2024-03-02T00:00:00.000Z",
      bucket: "hour",
    });
  });

  test.each([
    ["from=2024-02-30&to=2024-03-01", "missing"],
    ["from=2024-03-01", "missing"],
    ["from=2024-03-02&to=2024-03-01", "reversed"],
    ["from=2023-01-01&to=2024-03-01", "too-long"],
  ])("of %s is %s", (query, error) => {
    expect(rangeIn(`range=dates&${query}`)).toBe(error);
  });
});

test("hours add up to days, and days without events have a bar", () => {
  const range = rangeIn("range=dates&from=2024-05-01&to=2024-05-06") as Range;
  const counts = [
    { value: "2024-05-01T02:00Z", events: 2 },
    { value: "2024-05-01T03:00Z", events: 3 },
    { value: "2024-05-06T23:00Z", events: 1 },
  ];
  expect(barsOf(counts, range).map((bar) => bar.events)).toEqual([5, 0, 0, 0, 0, 1]);
});

test("each hour of a short range has a bar", () => {
  const bars = barsOf(
    [{ value: "2024-05-02T08:00Z", events: 7 }],
    rangeIn("range=day") as Range,
  );
  expect(bars).toHaveLength(24);
  expect(bars.at(-1)).toEqual({ start: "2024-05-02T08:00Z", events: 7 });
});

test.each([
  [0, 2],
  [1, 2],
  [3, 4],
  [7, 8],
  [9, 10],
  [101, 200],
  [1000, 1000],
  [999_999, 1_000_000],
])("the scale of at most %d events ends at %d", (max, top) => {
  expect(topOf(max)).toBe(top);
});
