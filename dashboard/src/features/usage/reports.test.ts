import { expect, test } from "vitest";

import type { Row } from "./period";
import { colourReports, NO_REPORT_COLOUR, OTHER_COLOUR, rankReports } from "./reports";

function rowOf(reportName: string, hundredths: number | null): Row {
  return {
    position: 0,
    messageId: "1",
    instant: null,
    timestamp: "",
    day: null,
    reportName,
    hundredths,
  };
}

test("reports are ranked by credits; messages without one are among them", () => {
  const rows = [
    rowOf("A", 5),
    rowOf("", 20),
    rowOf("B", 7),
    rowOf("A", 5),
    rowOf("C", null),
  ];
  expect(rankReports(rows)).toEqual([
    { name: "", hundredths: 20, messages: 1 },
    { name: "A", hundredths: 10, messages: 2 },
    { name: "B", hundredths: 7, messages: 1 },
    { name: "C", hundredths: 0, messages: 1 },
  ]);
});

test("the first reports have a colour each, all others share one", () => {
  const names = Array.from({ length: 20 }, (_, at) => `Report ${at}`);
  const colourOf = colourReports(
    rankReports(names.map((name, at) => rowOf(name, 99 - at))),
  );
  const colours = names.map(colourOf);
  expect(new Set(colours.slice(0, 6)).size).toBe(6);
  expect(new Set(colours.slice(6))).toEqual(new Set([OTHER_COLOUR]));
  expect(colours).not.toContain(colourOf(""));
  expect(colourOf("")).toBe(NO_REPORT_COLOUR);
});
