// Which rows are on the screen, and in what order. Fast enough for 100,000: values
// are ranked once, and only numbers are sorted.
import type { ColumnSort, SortColumn, View } from "./view/view";

import type { DayRange, Row } from "./period";

/** The rows that the view's filters let through, in the order of the messages. */
export function filterRows(
  rows: readonly Row[],
  { range, report, search }: Pick<View, "range" | "report" | "search">,
): readonly Row[] {
  const wanted = fold(search);
  if (range === null && report === null && wanted === "") return rows;
  const contains = remember((name) => fold(name).includes(wanted));
  return rows.filter(
    (row) =>
      (range === null || isWithin(row.day, range)) &&
      (report === null || row.reportName === report) &&
      (wanted === "" || contains(row.reportName)),
  );
}

function isWithin(day: string | null, { from, to }: DayRange): boolean {
  return day !== null && day >= from && day <= to;
}

/**
 * Sorted by the columns, the most important first; equal rows keep their order, and
 * rows without a value come last in both directions.
 */
export function sortRows(
  rows: readonly Row[],
  sorting: readonly ColumnSort[],
): readonly Row[] {
  // As equal rows keep their order, the last pass decides most.
  return sorting.reduceRight(sortByColumn, rows);
}

function sortByColumn(
  rows: readonly Row[],
  { column, direction }: ColumnSort,
): readonly Row[] {
  const ranks = RANKS[column](rows);
  const sign = direction === "desc" ? -1 : 1;
  // Rank and place in one number: a typed array sorts those without asking back.
  const keys = ranks.map(
    (rank, at) => (rank === BLANK ? rows.length : sign * rank) * rows.length + at,
  );
  keys.sort();
  const order = keys.map((key) => key - Math.floor(key / rows.length) * rows.length);
  return Array.from(order, (at) => rows[at] as Row);
}

const BLANK = -1;

const RANKS: Record<SortColumn, (rows: readonly Row[]) => Float64Array> = {
  report_name: (rows) =>
    rank(
      rows.map((row) => row.reportName || null),
      compareNames,
    ),
  credits_used: (rows) =>
    rank(
      rows.map((row) => row.hundredths),
      (a, b) => a - b,
    ),
};

/** Each value's place among all different ones; `BLANK` for none. */
function rank<Value>(
  values: readonly (Value | null)[],
  compare: (a: Value, b: Value) => number,
): Float64Array {
  const distinct = [...new Set(values)].filter((value) => value !== null).sort(compare);
  const ranks = new Map<Value | null, number>(
    distinct.map((value, place) => [value, place]),
  );
  return Float64Array.from(values, (value) => ranks.get(value) ?? BLANK);
}

const COLLATOR = new Intl.Collator("en");

/** Alphabetical. */
function compareNames(a: string, b: string): number {
  // The collator calls some different names equal; their code units decide then.
  return COLLATOR.compare(a, b) || (a < b ? -1 : 1);
}

/** Upper and lower case, and the ways to write one accented letter, are the same. */
function fold(text: string): string {
  return text.normalize("NFKC").toLowerCase().trim();
}

function remember(judge: (name: string) => boolean): (name: string) => boolean {
  const known = new Map<string, boolean>();
  return (name) => {
    const before = known.get(name);
    if (before !== undefined) return before;
    const now = judge(name);
    known.set(name, now);
    return now;
  };
}
