import { describe, expect, it } from "vitest";

import type { ColumnSort } from "./view/view";

import type { Row } from "./period";
import { filterRows, sortRows } from "./select-rows";

const NO_FILTER = { range: null, report: null, search: "" };

function rowsOf(...rows: Partial<Row>[]): Row[] {
  return rows.map((row, position) => ({
    position,
    messageId: String(1000 + position),
    instant: null,
    timestamp: "29-04-2024 03:25",
    day: "2024-04-29",
    reportName: "",
    hundredths: 100,
    ...row,
  }));
}

function positions(rows: readonly Row[]): number[] {
  return rows.map((row) => row.position);
}

function sorted(rows: Row[], ...sorting: ColumnSort[]): number[] {
  return positions(sortRows(rows, sorting));
}

describe("filterRows", () => {
  const rows = rowsOf(
    { reportName: "Short Lease Report" },
    { reportName: "", day: "2024-04-30" },
    { reportName: "Café Licence", day: null },
  );

  it("gives the very same rows where no filter is on", () => {
    expect(filterRows(rows, NO_FILTER)).toBe(rows);
    expect(filterRows(rows, { ...NO_FILTER, search: "  " })).toBe(rows);
  });

  it("keeps the rows of a range of days, and none whose day is unknown", () => {
    const kept = (from: string, to: string) =>
      positions(filterRows(rows, { ...NO_FILTER, range: { from, to } }));
    expect(kept("2024-04-29", "2024-04-29")).toEqual([0]);
    expect(kept("2024-04-01", "2024-04-30")).toEqual([0, 1]);
  });

  it("takes the empty name for the messages that no report priced", () => {
    expect(positions(filterRows(rows, { ...NO_FILTER, report: "" }))).toEqual([1]);
  });

  it.each([
    ["case", "short LEASE"],
    ["spaces at its ends", " lease "],
  ])("finds a name whatever the %s of the search", (_, search) => {
    expect(positions(filterRows(rows, { ...NO_FILTER, search }))).toEqual([0]);
  });

  it("finds an accented name however its accent is written", () => {
    const search = "cafe\u0301";
    expect(positions(filterRows(rows, { ...NO_FILTER, search }))).toEqual([2]);
  });

  it("keeps only the rows that all filters let through", () => {
    const view = {
      range: { from: "2024-04-30", to: "2024-04-30" },
      report: null,
      search: "lease",
    };
    expect(filterRows(rows, view)).toEqual([]);
  });
});

describe("sortRows", () => {
  it("gives the very same rows where nothing is sorted", () => {
    const rows = rowsOf({}, {});
    expect(sortRows(rows, [])).toBe(rows);
  });

  it("leaves the rows it was given in their order", () => {
    const rows = rowsOf({ hundredths: 2 }, { hundredths: 1 });
    sortRows(rows, [{ column: "credits_used", direction: "asc" }]);
    expect(positions(rows)).toEqual([0, 1]);
  });

  it("sorts credits as numbers, and those that cannot be read last", () => {
    const rows = rowsOf(
      { hundredths: 1_000 },
      { hundredths: null },
      { hundredths: -5 },
      { hundredths: 900 },
      { hundredths: Number.MAX_SAFE_INTEGER },
    );
    const column = "credits_used";
    expect(sorted(rows, { column, direction: "asc" })).toEqual([2, 3, 0, 4, 1]);
    expect(sorted(rows, { column, direction: "desc" })).toEqual([4, 0, 3, 2, 1]);
  });

  it("keeps equal rows in the order of the messages, in both directions", () => {
    const rows = rowsOf(
      { hundredths: 2 },
      { hundredths: 1 },
      { hundredths: 2 },
      { hundredths: 1 },
    );
    const column = "credits_used";
    expect(sorted(rows, { column, direction: "asc" })).toEqual([1, 3, 0, 2]);
    expect(sorted(rows, { column, direction: "desc" })).toEqual([0, 2, 1, 3]);
  });

  it("sorts names as a dictionary does, no report last", () => {
    const names = ["Zoning", "easement", "", "Éire Title", "Easement", "10,000"];
    const rows = rowsOf(...names.map((reportName) => ({ reportName })));
    const order = sortRows(rows, [{ column: "report_name", direction: "asc" }]);
    expect(order.map((row) => row.reportName)).toEqual([
      "10,000",
      "easement",
      "Easement",
      "Éire Title",
      "Zoning",
      "",
    ]);
    const back = sortRows(rows, [{ column: "report_name", direction: "desc" }]);
    expect(back.map((row) => row.reportName).slice(-2)).toEqual(["10,000", ""]);
  });

  it("keeps names apart that a dictionary takes for one", () => {
    // A soft hyphen does not count in a dictionary's order.
    const names = ["Lea\u00ADse", "Lease", "Lea\u00ADse", "Lease"];
    const rows = rowsOf(...names.map((reportName) => ({ reportName })));
    expect(sorted(rows, { column: "report_name", direction: "asc" })).toEqual([
      1, 3, 0, 2,
    ]);
  });

  it("lets a later column decide only among equals of the earlier", () => {
    const rows = rowsOf(
      { reportName: "B", hundredths: 1 },
      { reportName: "A", hundredths: 1 },
      { reportName: "B", hundredths: 2 },
      { reportName: "A", hundredths: 2 },
    );
    const name: ColumnSort = { column: "report_name", direction: "asc" };
    const credits: ColumnSort = { column: "credits_used", direction: "desc" };
    expect(sorted(rows, name, credits)).toEqual([3, 1, 2, 0]);
    expect(sorted(rows, credits, name)).toEqual([3, 2, 1, 0]);
  });

  it("agrees with a plain comparison on many rows", () => {
    const rows = rowsOf(
      ...Array.from({ length: 5_000 }, (_, at) => ({ hundredths: (at * 7919) % 331 })),
    );
    const plain = rows.toSorted((a, b) => (b.hundredths ?? 0) - (a.hundredths ?? 0));
    expect(sortRows(rows, [{ column: "credits_used", direction: "desc" }])).toEqual(
      plain,
    );
  });

  it("sorts no rows at all into none", () => {
    expect(sorted([], { column: "report_name", direction: "desc" })).toEqual([]);
  });
});
