import { fireEvent, render, screen, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { useState } from "react";
import { beforeEach, describe, expect, it, vi } from "vitest";

import type { ColumnSort } from "../view/view";

import type { Row } from "../period";
import { UsageTable } from "./usage-table";

const ROWS = rowsOf([
  { reportName: "Lease", hundredths: 7_900 },
  { hundredths: 520 },
  { reportName: "Deed", hundredths: 7_900 },
]);

function rowsOf(rows: Partial<Row>[]): Row[] {
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

function manyRows(count: number): Row[] {
  return rowsOf(Array.from({ length: count }, (_, at) => ({ hundredths: at })));
}

interface Props {
  rows?: readonly Row[];
  initially?: ColumnSort[];
}

function Table({ rows = ROWS, initially = [] }: Props) {
  const [sorting, setSorting] = useState(initially);
  return (
    <UsageTable
      rows={rows}
      sorting={sorting}
      zone="UTC"
      onSort={setSorting}
      renderDetails={(row) => <p>Steps of {row.messageId}</p>}
    />
  );
}

// Looking by role through all of a table takes seconds where it is long.
function part(name: "thead" | "tfoot"): HTMLElement {
  return document.querySelector(name) as HTMLElement;
}

function sortButton(name: string): HTMLElement {
  return within(part("thead")).getByRole("button", { name: new RegExp(`^${name}`) });
}

function header(name: string): HTMLElement {
  return within(part("thead")).getByRole("columnheader", {
    name: new RegExp(`^${name}`),
  });
}

function rowButton(messageId: string): HTMLElement {
  return screen.getByLabelText(`Message ${messageId}, show how its price was made`);
}

/** The ids on the screen, from above. */
function ids(): (string | null)[] {
  const buttons = document.querySelectorAll(".row-button");
  return Array.from(buttons, (button) => button.textContent);
}

function cellsOf(messageId: string): (string | null)[] {
  const row = rowButton(messageId).closest("tr");
  return within(row as HTMLElement)
    .getAllByRole("cell")
    .map((cell) => cell.textContent);
}

describe("UsageTable", () => {
  it("shows each message's id, time, report and credits, and their total", () => {
    render(<Table />);
    expect(cellsOf("1000")).toEqual(["1000", "29-04-2024 03:25", "Lease", "79.00"]);
    expect(cellsOf("1001")).toEqual(["1001", "29-04-2024 03:25", "", "5.20"]);
    expect(screen.getByRole("row", { name: /^Total/ })).toHaveTextContent("163.20");
  });

  it("says that its timestamps are of UTC", () => {
    render(<Table />);
    expect(header("Timestamp")).toHaveTextContent("Timestamp (UTC)");
  });

  it("shows a dash for credits and ids that cannot be read", () => {
    render(<Table rows={rowsOf([{ messageId: "", hundredths: null }])} />);
    const button = screen.getByRole("button", { name: /^Message without an id/ });
    expect(button).toHaveTextContent("–");
    expect(within(screen.getByRole("table")).getAllByText("–")).toHaveLength(2);
  });

  it("shows markup as text, and a long name as a whole where the pointer rests", () => {
    const markup = "<img src=x onerror=alert(1)>";
    const long = "x".repeat(10_000);
    render(<Table rows={rowsOf([{ reportName: markup }, { reportName: long }])} />);
    expect(screen.getByText(markup)).toBeVisible();
    expect(document.querySelector("img")).toBeNull();
    expect(screen.getByTitle(long).tagName).toBe("BDI");
  });

  it("scrolls by keyboard, as a region with a name", () => {
    render(<Table />);
    expect(
      screen.getByRole("region", { name: "Table of messages, scrolls" }),
    ).toHaveAttribute("tabindex", "0");
  });
});

describe("sorting", () => {
  it("goes from ascending over descending back to the original order", async () => {
    const user = userEvent.setup();
    render(<Table />);
    await user.click(sortButton("Credits Used"));
    expect(ids()).toEqual(["1001", "1000", "1002"]);
    expect(header("Credits Used")).toHaveAttribute("aria-sort", "ascending");
    await user.click(sortButton("Credits Used"));
    expect(ids()).toEqual(["1000", "1002", "1001"]);
    expect(header("Credits Used")).toHaveAttribute("aria-sort", "descending");
    await user.click(sortButton("Credits Used"));
    expect(ids()).toEqual(["1000", "1001", "1002"]);
    expect(header("Credits Used")).not.toHaveAttribute("aria-sort");
  });

  it.each([
    ["Enter", "{Enter}"],
    ["Space", " "],
  ])("is reached by %s, and adds a column with Shift", async (_, key) => {
    const user = userEvent.setup();
    render(<Table />);
    sortButton("Credits Used").focus();
    await user.keyboard(key);
    sortButton("Report Name").focus();
    await user.keyboard(`{Shift>}${key}{/Shift}`);
    expect(ids()).toEqual(["1001", "1002", "1000"]);
    expect(sortButton("Credits Used")).toHaveAccessibleName(
      "Credits Used sorted ascending, priority 1",
    );
    expect(sortButton("Report Name")).toHaveAccessibleName(
      "Report Name sorted ascending, priority 2",
    );
  });

  it("shows priorities only where several columns sort", async () => {
    const user = userEvent.setup();
    render(<Table />);
    await user.click(sortButton("Report Name"));
    expect(sortButton("Report Name")).toHaveAccessibleName(
      "Report Name sorted ascending",
    );
    expect(sortButton("Report Name")).toHaveTextContent("▲");
    await user.keyboard("{Shift>}");
    await user.click(sortButton("Credits Used"));
    expect(sortButton("Report Name")).toHaveTextContent("▲1");
    expect(sortButton("Credits Used")).toHaveTextContent("▲2");
  });

  it("names only the first column in aria-sort", () => {
    render(
      <Table
        initially={[
          { column: "credits_used", direction: "desc" },
          { column: "report_name", direction: "asc" },
        ]}
      />,
    );
    expect(header("Credits Used")).toHaveAttribute("aria-sort", "descending");
    expect(header("Report Name")).not.toHaveAttribute("aria-sort");
  });

  it("takes a column away with Shift after its third state, and keeps the others", async () => {
    const user = userEvent.setup();
    render(
      <Table
        initially={[
          { column: "credits_used", direction: "desc" },
          { column: "report_name", direction: "asc" },
        ]}
      />,
    );
    await user.keyboard("{Shift>}");
    await user.click(sortButton("Credits Used"));
    expect(sortButton("Credits Used")).toHaveAccessibleName("Credits Used");
    expect(sortButton("Report Name")).toHaveAccessibleName(
      "Report Name sorted ascending",
    );
  });

  it("begins anew with one of several columns that is clicked without Shift", async () => {
    const user = userEvent.setup();
    render(
      <Table
        initially={[
          { column: "credits_used", direction: "asc" },
          { column: "report_name", direction: "asc" },
        ]}
      />,
    );
    await user.click(sortButton("Report Name"));
    expect(sortButton("Report Name")).toHaveAccessibleName(
      "Report Name sorted ascending",
    );
    expect(sortButton("Credits Used")).toHaveAccessibleName("Credits Used");
  });

  it("is told aloud", async () => {
    const user = userEvent.setup();
    render(<Table />);
    const status = screen.getByRole("status");
    expect(status).toHaveTextContent("In the original order.");
    await user.dblClick(sortButton("Credits Used"));
    await user.keyboard("{Shift>}");
    await user.click(sortButton("Report Name"));
    expect(status).toHaveTextContent(
      "Sorted by Credits Used descending, then Report Name ascending.",
    );
  });

  it("scrolls back to the first row", async () => {
    const user = userEvent.setup();
    render(<Table />);
    const scroller = screen.getByRole("region", { name: "Table of messages, scrolls" });
    scroller.scrollTop = 300;
    await user.click(sortButton("Credits Used"));
    expect(scroller.scrollTop).toBe(0);
  });
});

describe("an open row", () => {
  it("opens and closes by its button, from the keyboard too", async () => {
    const user = userEvent.setup();
    render(<Table />);
    expect(rowButton("1001")).toHaveAttribute("aria-expanded", "false");
    rowButton("1001").focus();
    await user.keyboard("{Enter}");
    expect(rowButton("1001")).toHaveAttribute("aria-expanded", "true");
    expect(rowButton("1001").closest("tr")?.nextSibling).toHaveTextContent(
      "Steps of 1001",
    );
    await user.click(rowButton("1001"));
    expect(screen.queryByText("Steps of 1001")).toBeNull();
    expect(rowButton("1001")).toHaveAttribute("aria-expanded", "false");
  });

  it("opens and closes by a click anywhere on the row", async () => {
    const user = userEvent.setup();
    render(<Table />);
    await user.click(screen.getByText("Deed"));
    expect(screen.getByText("Steps of 1002")).toBeVisible();
    await user.click(screen.getByText("Deed"));
    expect(screen.queryByText("Steps of 1002")).toBeNull();
  });

  it("stays shut while its text is being marked", () => {
    render(<Table />);
    getSelection()?.selectAllChildren(screen.getByText("Deed"));
    fireEvent.click(screen.getByText("Deed"));
    getSelection()?.removeAllRanges();
    expect(screen.queryByText("Steps of 1002")).toBeNull();
  });

  it("stays open beside others, and through sorting and filtering", async () => {
    const user = userEvent.setup();
    const { rerender } = render(<Table />);
    await user.click(rowButton("1000"));
    await user.click(rowButton("1002"));
    await user.click(sortButton("Credits Used"));
    rerender(<Table rows={ROWS.slice(1)} />);
    expect(screen.queryByText("Steps of 1000")).toBeNull();
    expect(screen.getByText("Steps of 1002")).toBeVisible();
    rerender(<Table rows={ROWS.map((row) => ({ ...row, hundredths: 1 }))} />);
    expect(screen.getByText("Steps of 1000")).toBeVisible();
    expect(screen.getByText("Steps of 1002")).toBeVisible();
  });

  it("is not opened by another message that comes into its place", async () => {
    const user = userEvent.setup();
    const { rerender } = render(<Table />);
    await user.click(rowButton("1000"));
    rerender(<Table rows={rowsOf([{ messageId: "2000" }])} />);
    expect(rowButton("2000")).toHaveAttribute("aria-expanded", "false");
  });

  it("is one of two messages that have the same id", async () => {
    const user = userEvent.setup();
    render(<Table rows={rowsOf([{ messageId: "7" }, { messageId: "7" }])} />);
    const [first, second] = screen.getAllByRole("button", { name: /^Message 7,/ });
    await user.click(second as HTMLElement);
    expect(first).toHaveAttribute("aria-expanded", "false");
    expect(second).toHaveAttribute("aria-expanded", "true");
  });
});

describe("a long table", () => {
  const ROW_PX = 41;
  const SCREEN_PX = 410;

  beforeEach(() => {
    // What a browser would measure.
    vi.spyOn(HTMLElement.prototype, "offsetHeight", "get").mockReturnValue(ROW_PX);
    vi.spyOn(Element.prototype, "clientHeight", "get").mockReturnValue(SCREEN_PX);
  });

  it("draws all rows up to 500", () => {
    render(<Table rows={manyRows(500)} />);
    expect(ids()).toHaveLength(500);
    expect(document.querySelector("[aria-rowcount]")).toBeNull();
  });

  it("draws only the rows in sight beyond that, and leaves the others their height", () => {
    render(<Table rows={manyRows(10_000)} />);
    expect(ids()[0]).toBe("1000");
    expect(ids().length).toBeLessThan(50);
    const spacer = document.querySelector<HTMLElement>(".table-spacer td");
    expect(spacer?.style.height).toBe(`${(10_000 - ids().length) * ROW_PX}px`);
  });

  it("tells how many rows there are, and the place of each", () => {
    render(<Table rows={manyRows(10_000)} />);
    expect(screen.getByRole("table")).toHaveAttribute("aria-rowcount", "10002");
    expect(rowButton("1000").closest("tr")).toHaveAttribute("aria-rowindex", "2");
    expect(part("tfoot").firstElementChild).toHaveAttribute("aria-rowindex", "10002");
  });

  it("draws the rows that it is scrolled to", () => {
    render(<Table rows={manyRows(10_000)} />);
    const scroller = screen.getByLabelText("Table of messages, scrolls");
    fireEvent.scroll(scroller, { target: { scrollTop: 5_000 * ROW_PX } });
    expect(ids()).toContain("6000");
    expect(ids()).not.toContain("1000");
  });

  it("sorts and sums all of its rows, not only those that are drawn", () => {
    render(<Table rows={manyRows(10_000)} />);
    fireEvent.click(sortButton("Credits Used"));
    fireEvent.click(sortButton("Credits Used"));
    expect(ids()[0]).toBe("10999");
    expect(part("tfoot").firstElementChild).toHaveTextContent("499,950.00");
  });

  it("keeps a row open that was scrolled out of sight", () => {
    render(<Table rows={manyRows(10_000)} />);
    fireEvent.click(rowButton("1000"));
    const scroller = screen.getByLabelText("Table of messages, scrolls");
    fireEvent.scroll(scroller, { target: { scrollTop: 5_000 * ROW_PX } });
    expect(screen.queryByText("Steps of 1000")).toBeNull();
    fireEvent.scroll(scroller, { target: { scrollTop: 0 } });
    expect(screen.getByText("Steps of 1000")).toBeVisible();
  });

  it("says on paper that not all of it is printed", () => {
    render(<Table rows={manyRows(10_000)} />);
    expect(screen.getByText(/of 10,000 messages are printed here/)).toBeInTheDocument();
  });

  it("lists at most 250,000 rows, says so, and sums them all", () => {
    render(<Table rows={manyRows(250_001)} />);
    expect(screen.getByText(/^Only the first 250,000 of 250,001/)).toBeVisible();
    expect(document.querySelector("[aria-rowcount='250002']")).toBeVisible();
    const sum = "312,501,250.00";
    expect(part("tfoot").firstElementChild).toHaveTextContent(sum);
  });

  it("says nothing of a limit where it lists all", () => {
    render(<Table rows={manyRows(600)} />);
    expect(screen.queryByText(/^Only the first/)).toBeNull();
  });
});
