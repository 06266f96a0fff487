import { describe, expect, test } from "vitest";

import type { Row } from "./period";
import { reportNames, sumAll, sumByDay } from "./sums";

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

describe("sumByDay", () => {
  test("has every day from the first to the last, in order, idle ones too", () => {
    const rows = [
      rowOf("2024-03-02", 10),
      rowOf("2024-02-28", 20),
      rowOf("2024-03-02", 25),
    ];
    expect(sumByDay(rows)).toEqual([
      { day: "2024-02-28", hundredths: 20, messages: 1 },
      { day: "2024-02-29", hundredths: 0, messages: 0 },
      { day: "2024-03-01", hundredths: 0, messages: 0 },
      { day: "2024-03-02", hundredths: 35, messages: 2 },
    ]);
  });

  test("counts a message whose price cannot be read, but no credits", () => {
    expect(sumByDay([rowOf("2024-03-02", null)])).toEqual([
      { day: "2024-03-02", hundredths: 0, messages: 1 },
    ]);
  });

  test("leaves out messages of no day", () => {
    expect(sumByDay([rowOf(null, 10)])).toEqual([]);
  });

  test("does not fill ages between a wrong timestamp and the others", () => {
    const days = sumByDay([rowOf("1024-03-02", 10), rowOf("2024-03-02", 10)]);
    expect(days.map(({ day }) => day)).toEqual(["1024-03-02", "2024-03-02"]);
  });
});

test("sumAll adds exactly", () => {
  const rows = [rowOf(null, 10, "A"), rowOf(null, 20), rowOf(null, null, "B")];
  expect(sumAll(rows)).toEqual({ hundredths: 30, messages: 3 });
  const many = Array.from({ length: 100_000 }, () => rowOf(null, 15));
  expect(sumAll(many).hundredths).toBe(1_500_000);
});

test("reportNames has each name once, in the order of the alphabet", () => {
  const names = ["Zoning", "anchor", "Éclair", "Zoning", ""];
  expect(reportNames(names.map((name) => rowOf(null, 1, name)))).toEqual([
    "anchor",
    "Éclair",
    "Zoning",
  ]);
});
