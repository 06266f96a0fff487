import { describe, expect, test } from "vitest";

import type { Bucket } from "./buckets";
import { describeBucket, describeChart } from "./describe-chart";

const bucket = (from: string, hundredths: number, to = from): Bucket => ({
  from,
  to,
  hundredths,
  messages: 2,
  parts: [],
});

describe("describeChart", () => {
  test("has the span of days and the highest one", () => {
    expect(
      describeChart([bucket("2024-04-29", 100), bucket("2024-04-30", 12_000)], "day"),
    ).toBe(
      "Bar chart of credits per day, from Monday 29 April 2024 to Tuesday 30 April 2024; the most on Tuesday 30 April 2024: 120.00.",
    );
  });

  test("needs no highest day, and no span for one day", () => {
    expect(describeChart([bucket("2024-04-29", 0)], "day")).toBe(
      "Bar chart of credits per day, on Monday 29 April 2024; no credits on any day.",
    );
  });

  test("has words for no day at all", () => {
    expect(describeChart([], "week")).toMatch(/without a day/);
  });
});

describe("describeBucket", () => {
  test("names a day, a week, or the days until then", () => {
    expect(describeBucket(bucket("2024-05-02", 8_185), "day")).toBe(
      "Thursday 2 May 2024: 81.85 credits, 2 messages",
    );
    expect(describeBucket(bucket("2024-04-29", 1, "2024-05-05"), "week")).toBe(
      "29-04-2024 to 05-05-2024: 0.01 credits, 2 messages",
    );
    expect(describeBucket(bucket("2024-05-02", 8_185), "total")).toMatch(
      /^Until Thursday 2 May 2024/,
    );
  });
});
