// Tables as CSV that spreadsheets open, and do not run (RFC 4180).

const BYTE_ORDER_MARK = "\uFEFF";
/** What begins a formula; the wide forms do so in some languages' spreadsheets. */
const FORMULA = /^[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]/;

/** Return a table as CSV, with a mark by which spreadsheets know its encoding. */
export function tableToCsv(table: readonly (readonly string[])[]): string {
  const text = table.map((line) => line.map(toField).join(",")).join("\r\n");
  return `${BYTE_ORDER_MARK}${text}\r\n`;
}

/** Quoted where it must be; what a spreadsheet would run as a formula becomes text. */
export function toField(value: string): string {
  const safe = FORMULA.test(value) && !isNumber(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function isNumber(value: string): boolean {
  return /^-?\d+(\.\d+)?$/.test(value);
}
