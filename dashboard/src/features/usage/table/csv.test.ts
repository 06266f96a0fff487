import { describe, expect, it } from "vitest";

import { toCsv } from "./csv";
import type { Row } from "../period";

const ROW: Row = {
  position: 0,
  messageId: "1000",
  instant: null,
  timestamp: "29-04-2024 02:08",
  day: "2024-04-29",
  reportName: "Tenant Obligations Report",
  hundredths: 7_900,
};

const OPTIONS = { zone: "UTC", whatIfPlan: null };

/** The one row's line, without the head. */
function lineOf(row: Partial<Row>): string {
  const text = toCsv([{ ...ROW, ...row }], OPTIONS);
  return text.slice(text.indexOf("\r\n") + 2, text.lastIndexOf("\r\n"));
}

describe("toCsv", () => {
  it("writes the columns, and each row with two decimals, and no total", () => {
    const rows = [ROW, { ...ROW, messageId: "1001", reportName: "", hundredths: 520 }];
    expect(toCsv(rows, OPTIONS)).toBe(
      "\uFEFFMessage ID,Timestamp (UTC),Report Name,Credits Used\r\n" +
        "1000,2024-04-29 02:08,Tenant Obligations Report,79.00\r\n" +
        "1001,2024-04-29 02:08,,5.20\r\n",
    );
  });

  it("writes the local time of a zone, and a timestamp it cannot read as it came", () => {
    expect(toCsv([], { ...OPTIONS, zone: "Europe/London" })).toContain(
      "Timestamp (Europe/London)",
    );
    expect(lineOf({ day: null, timestamp: "yesterday" })).toContain("1000,yesterday,");
  });

  it("says in the column of credits that they are not charged", () => {
    const text = toCsv([ROW], { ...OPTIONS, whatIfPlan: "token-estimate/1" });
    expect(text).toContain(",Would Cost under token-estimate/1 (not your plan)\r\n");
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
    expect(lineOf({ reportName })).toBe(`1000,2024-04-29 02:08,${field},79.00`);
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
    expect(line).toBe("-12,2024-04-29 02:08,Tenant Obligations Report,-1.50");
  });
});
