import { describe, expect, it } from "vitest";

import { toCsv } from "./csv";
import type { Row } from "./period";

const ROW: Row = {
  position: 0,
  messageId: "1000",
  timestamp: "29-04-2024 02:08",
  day: "2024-04-29",
  reportName: "Tenant Obligations Report",
  hundredths: 7_900,
};

/** The one row's line, without the head and the total. */
function lineOf(row: Partial<Row>): string {
  const text = toCsv([{ ...ROW, ...row }]);
  return text.slice(text.indexOf("\r\n") + 2, text.lastIndexOf("\r\nTotal"));
}

describe("toCsv", () => {
  it("writes the columns, each row with two decimals, and the total", () => {
    const rows = [ROW, { ...ROW, messageId: "1001", reportName: "", hundredths: 520 }];
    expect(toCsv(rows)).toBe(
      "\uFEFFMessage ID,Timestamp,Report Name,Credits Used\r\n" +
        "1000,29-04-2024 02:08,Tenant Obligations Report,79.00\r\n" +
        "1001,29-04-2024 02:08,,5.20\r\n" +
        "Total,,,84.20\r\n",
    );
  });

  it("writes no separators into large numbers", () => {
    expect(lineOf({ hundredths: 123_456_789 })).toContain(",1234567.89");
  });

  it("leaves the credits empty that cannot be read", () => {
    expect(lineOf({ hundredths: null })).toMatch(/Report,$/);
  });

  it.each([
    ["a comma", "Lease, short", '"Lease, short"'],
    ["quotes", 'The "Short" Lease', '"The ""Short"" Lease"'],
    ["a line's end", "Short\nLease", '"Short\nLease"'],
  ])("quotes a name with %s", (_, reportName, field) => {
    expect(lineOf({ reportName })).toBe(`1000,29-04-2024 02:08,${field},79.00`);
  });

  it.each([
    '=HYPERLINK("http://x","y")',
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uFF1D1",
  ])("turns %j into text, which a spreadsheet does not run", (reportName) => {
    const field = lineOf({ reportName }).split(",").slice(2).join(",");
    expect(field.replace(/^"/, "").startsWith("'")).toBe(true);
  });

  it("leaves negative numbers numbers", () => {
    const line = lineOf({ messageId: "-12", hundredths: -150 });
    expect(line).toBe("-12,29-04-2024 02:08,Tenant Obligations Report,-1.50");
  });
});
