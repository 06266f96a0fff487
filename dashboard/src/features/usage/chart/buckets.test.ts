import { describe, expect, test } from "vitest";

import type { Row } from "../period";
import { colourReports, NO_REPORT_COLOUR, rankReports } from "../reports";
import { bucketsOf } from "./buckets";

const DAYS = ["2024-04-28", "2024-04-29", "2024-04-30"];

function rowOf(day: string | null, hundredths: number | null, reportName = ""): Row {
  return {
    position: 0,
    messageId: "1",
    instant: null,
    timestamp: "",
    day,
    reportName,
    hundredths,
  };
}

const ROWS = [
  rowOf("2024-04-28", 100),
  rowOf("2024-04-30", 300, "Lease"),
  rowOf("2024-04-30", 20),
  rowOf("2024-04-30", null),
  rowOf(null, 999),
];
const colourOf = colourReports(rankReports(ROWS));
const sums = (step: "day" | "week" | "total") =>
  bucketsOf(ROWS, { days: DAYS, step, colourOf }).map((each) => [
    each.from,
    each.to,
    each.hundredths,
    each.messages,
  ]);

describe("bucketsOf", () => {
  test("has a bar for each day, idle ones too", () => {
    expect(sums("day")).toEqual([
      ["2024-04-28", "2024-04-28", 100, 1],
      ["2024-04-29", "2024-04-29", 0, 0],
      ["2024-04-30", "2024-04-30", 320, 3],
    ]);
  });

  test("has a bar for each week from Monday, cut at the ends of the period", () => {
    expect(sums("week")).toEqual([
      ["2024-04-28", "2024-04-28", 100, 1],
      ["2024-04-29", "2024-04-30", 320, 3],
    ]);
  });

  test("adds up to the sum of all days", () => {
    expect(sums("total").map((bar) => bar[2])).toEqual([100, 100, 420]);
  });

  test("keeps the credits of each report apart", () => {
    const last = bucketsOf(ROWS, { days: DAYS, step: "total", colourOf }).at(-1);
    expect(last?.parts[colourOf("Lease")]).toBe(300);
    expect(last?.parts[NO_REPORT_COLOUR]).toBe(120);
  });
});
