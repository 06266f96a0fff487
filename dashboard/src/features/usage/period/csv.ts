// The table as a file: what is on the screen, row by row (RFC 4180).
import { plainCredits } from "@/text/credits";

import { COLUMN_TITLES } from "./columns";
import type { Row } from "./period";
import { sumAll } from "./sums";

const BYTE_ORDER_MARK = "\uFEFF";
/** What begins a formula; the wide forms do so in some languages' spreadsheets. */
const FORMULA = /^[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]/;

/** The rows and their total as CSV that a spreadsheet opens, and does not run. */
export function toCsv(rows: readonly Row[]): string {
  const lines = rows.map((row) => [
    row.messageId,
    row.timestamp,
    row.reportName,
    row.hundredths === null ? "" : plainCredits(row.hundredths),
  ]);
  const total = ["Total", "", "", plainCredits(sumAll(rows).hundredths)];
  const table = [COLUMN_TITLES, ...lines, total];
  const text = table.map((line) => line.map(toField).join(",")).join("\r\n");
  return `${BYTE_ORDER_MARK}${text}\r\n`;
}

/** Quoted where it must be; what a spreadsheet would run as a formula becomes text. */
function toField(value: string): string {
  const safe = FORMULA.test(value) && !isNumber(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function isNumber(value: string): boolean {
  return /^-?\d+(\.\d+)?$/.test(value);
}
