import { describe, expect, test } from "vitest";

import { describeChart } from "./describe-chart";
import { formatShare } from "./share";
import { shorten } from "./shorten";

describe("formatShare", () => {
  test.each([
    [31, 110, "28%"],
    [0, 10, "0%"],
    [10, 10, "100%"],
    [1, 1_000, "under 1%"],
    [999, 1_000, "over 99%"],
    [0, 0, "–"],
  ])("calls %d of %d %s", (part, whole, text) => {
    expect(formatShare(part, whole)).toBe(text);
  });
});

describe("shorten", () => {
  test("leaves a name that fits", () => {
    expect(shorten("Tenant Obligations Report")).toBe("Tenant Obligations Report");
  });

  test("cuts a name of 10,000 characters to a line", () => {
    expect(shorten("x".repeat(10_000))).toBe(`${"x".repeat(59)}…`);
  });

  test("cuts no character in half", () => {
    expect(shorten("🏠".repeat(100)).isWellFormed()).toBe(true);
  });
});

describe("describeChart", () => {
  const day = (day: string, hundredths: number) => ({ day, hundredths, messages: 1 });

  test("says the span of days and the highest one", () => {
    expect(describeChart([day("2024-04-29", 100), day("2024-04-30", 12_000)])).toBe(
      "Bar chart of credits per day, over 2 days, from Monday 29 April 2024 to Tuesday 30 April 2024; the most on Tuesday 30 April 2024: 120.00.",
    );
  });

  test("needs no highest day, and no span for one day", () => {
    expect(describeChart([day("2024-04-29", 0)])).toBe(
      "Bar chart of credits per day, on Monday 29 April 2024; no credits on any day.",
    );
  });

  test("has words for no day at all", () => {
    expect(describeChart([])).toMatch(/without a day/);
  });
});
