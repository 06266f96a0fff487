// The table as a file: what is on the screen, row by row (RFC 4180).
import { plainCredits } from "@/text/credits";

import type { Row } from "../period";
import { COLUMN_TITLES } from "./columns";

const BYTE_ORDER_MARK = "\uFEFF";
/** What begins a formula; the wide forms do so in some languages' spreadsheets. */
const FORMULA = /^[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]/;

interface Options {
  /** Name of the time zone of the timestamps. */
  zone: string;
  /** The plan that would cost these credits; null if they are those of the bill. */
  whatIfPlan: string | null;
}

/** Return the rows as CSV that a spreadsheet opens, and does not run. */
export function toCsv(rows: readonly Row[], { zone, whatIfPlan }: Options): string {
  const [id, timestamp, report, credits] = COLUMN_TITLES;
  const head = [
    id,
    `${timestamp} (${zone})`,
    report,
    whatIfPlan === null ? credits : `Would Cost under ${whatIfPlan} (not your plan)`,
  ];
  const lines = rows.map((row) => [
    row.messageId,
    toSpreadsheetTime(row),
    row.reportName,
    row.hundredths === null ? "" : plainCredits(row.hundredths),
  ]);
  const text = [head, ...lines].map((line) => line.map(toField).join(",")).join("\r\n");
  return `${BYTE_ORDER_MARK}${text}\r\n`;
}

/** `2024-05-01 11:49`: spreadsheets read `01-05-2024` as 5 January in some languages. */
function toSpreadsheetTime({ day, timestamp }: Row): string {
  return day === null ? timestamp : `${day} ${timestamp.slice(-5)}`;
}

/** Quoted where it must be; what a spreadsheet would run as a formula becomes text. */
function toField(value: string): string {
  const safe = FORMULA.test(value) && !isNumber(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function isNumber(value: string): boolean {
  return /^-?\d+(\.\d+)?$/.test(value);
}
