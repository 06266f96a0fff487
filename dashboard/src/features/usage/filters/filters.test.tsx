import { render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { useState } from "react";
import { describe, expect, test, vi } from "vitest";

import { DEFAULT_VIEW, type View } from "../view/view";

import type { KeptPeriod } from "../api/use-periods";
import type { Row } from "../period";
import { sumByDay } from "../sums";
import { Filters } from "./filters";

function rowsOf(names: readonly string[]): Row[] {
  return names.map((reportName, position) => ({
    position,
    messageId: `${position}`,
    instant: null,
    timestamp: "",
    day: `2024-04-${29 + (position % 2)}`,
    reportName,
    hundredths: 150,
  }));
}

const ROWS = rowsOf(["Short Lease Report", "", "Annual Rent Review"]);

function rangeOf(day: string) {
  return { from: day, to: day };
}

/** The filters with a view that they change, as in the page. */
function show(
  view: Partial<View> = {},
  rows = ROWS,
  periods: readonly KeptPeriod[] | null = null,
) {
  const onChange = vi.fn();
  function Page() {
    const [now, setNow] = useState({ ...DEFAULT_VIEW, ...view });
    return (
      <Filters
        rows={rows}
        days={sumByDay(rows)}
        periods={periods}
        view={now}
        onChange={(change) => {
          onChange(change);
          setNow({ ...now, ...change });
        }}
        shown={1}
      />
    );
  }
  render(<Page />);
  return onChange;
}

const day = () => screen.getByRole<HTMLSelectElement>("combobox", { name: "Day" });
const report = () =>
  screen.getByRole<HTMLSelectElement>("combobox", { name: "Report" });
const search = () => screen.getByRole("searchbox", { name: "Report name contains" });
const options = (select: HTMLSelectElement) =>
  Array.from(select.options, (option) => option.text);
const chosen = (select: HTMLSelectElement) => select.selectedOptions[0]?.text;

describe("the day", () => {
  test("is one of the period's, with its credits, or any", () => {
    show();
    expect(options(day())).toEqual([
      "All days",
      "Monday 29 April 2024 – 3.00 credits",
      "Tuesday 30 April 2024 – 1.50 credits",
    ]);
  });

  test("is chosen and let go", async () => {
    const onChange = show();
    await userEvent.selectOptions(day(), "2024-04-30");
    await userEvent.selectOptions(day(), "All days");
    expect(onChange.mock.calls).toEqual([
      [{ range: rangeOf("2024-04-30") }],
      [{ range: null }],
    ]);
  });

  test("that an address names and the period lacks is seen, and can be cleared", async () => {
    const onChange = show({ range: rangeOf("2020-01-01") });
    expect(chosen(day())).toBe("Wednesday 1 January 2020 (not in this period)");
    await userEvent.selectOptions(day(), "All days");
    expect(onChange).toHaveBeenCalledExactlyOnceWith({ range: null });
  });

  test("may be several, which the chart has chosen", () => {
    show({ range: { from: "2024-04-29", to: "2024-04-30" } });
    expect(chosen(day())).toBe("29-04-2024 to 30-04-2024");
  });
});

describe("the period", () => {
  const kept = (id: string, isOpen: boolean): KeptPeriod => ({
    id,
    isOpen,
    revision: 1,
    from: `${id}T01:00:00Z`,
    to: "2024-05-28T01:00:00Z",
    messages: 1,
    hundredths: 100,
  });
  const period = () =>
    screen.queryByRole<HTMLSelectElement>("combobox", { name: "Period" });

  test("is no choice where there is one period", () => {
    show({}, ROWS, [kept("2024-05-29", true)]);
    expect(period()).toBeNull();
  });

  test("is chosen without the days of another one", async () => {
    const onChange = show({}, ROWS, [
      kept("2024-05-29", true),
      kept("2024-04-29", false),
    ]);
    await userEvent.selectOptions(period() as HTMLSelectElement, "2024-04-29");
    expect(onChange).toHaveBeenCalledExactlyOnceWith({
      period: "2024-04-29",
      range: null,
    });
    expect(chosen(period() as HTMLSelectElement)).toBe("29-04-2024 to 28-05-2024");
  });
});

test("the time zone is one that the browser knows", async () => {
  const onChange = show();
  const zone = screen.getByRole<HTMLSelectElement>("combobox", { name: "Time zone" });
  await userEvent.selectOptions(zone, "Europe/London");
  expect(onChange).toHaveBeenCalledExactlyOnceWith({ zone: "Europe/London" });
});

describe("the report", () => {
  test("is all of them, none, or one by its name", async () => {
    const onChange = show();
    expect(options(report())).toEqual([
      "All reports",
      "No report",
      "Annual Rent Review",
      "Short Lease Report",
    ]);
    await userEvent.selectOptions(report(), "Annual Rent Review");
    await userEvent.selectOptions(report(), "No report");
    await userEvent.selectOptions(report(), "All reports");
    expect(onChange.mock.calls).toEqual([
      [{ report: "Annual Rent Review" }],
      [{ report: "" }],
      [{ report: null }],
    ]);
  });

  test.each(["all", "All reports", "=", "No report", "=all"])(
    "may be called %o and is not mistaken",
    async (name) => {
      const onChange = show({}, rowsOf([name]));
      await userEvent.selectOptions(report(), report().options[2] as HTMLElement);
      expect(onChange).toHaveBeenCalledExactlyOnceWith({ report: name });
    },
  );

  test("that an address names and the period lacks is seen, and can be cleared", async () => {
    const onChange = show({ report: "Lost Report" });
    expect(chosen(report())).toBe("Lost Report (not in this period)");
    await userEvent.click(screen.getByRole("button", { name: "Clear filters" }));
    expect(onChange).toHaveBeenCalledExactlyOnceWith({
      range: null,
      report: null,
      search: "",
    });
    expect(chosen(report())).toBe("All reports");
  });

  test("with markup in its name is a name", () => {
    const name = "<img src=x onerror=alert(1)>";
    show({ report: name }, rowsOf([name]));
    expect(chosen(report())).toBe(name);
    expect(document.querySelector("img")).toBeNull();
  });

  test("with a name of 10,000 characters is chosen whole and shown short", async () => {
    const name = "租".repeat(10_000);
    const onChange = show({}, rowsOf([name]));
    expect(options(report())[2]?.length).toBeLessThan(80);
    await userEvent.selectOptions(report(), `=${name}`);
    expect(onChange).toHaveBeenCalledExactlyOnceWith({ report: name });
  });

  test("is written in its own direction", () => {
    show({}, rowsOf(["דוח שכירות"]));
    expect(screen.getByRole("option", { name: "דוח שכירות" })).toHaveAttribute(
      "dir",
      "auto",
    );
  });

  test("beyond a thousand of them is found by its name, and a chosen one is listed", () => {
    const names = Array.from({ length: 1_500 }, (_, at) => `Report ${1_000 + at}`);
    show({ report: "Report 2499" }, rowsOf(names));
    expect(options(report())).toHaveLength(1_004);
    expect(options(report()).at(-1)).toBe("500 more: type a part of the name");
    expect(chosen(report())).toBe("Report 2499");
  });
});

describe("the search", () => {
  test("filters at each letter", async () => {
    const onChange = show();
    await userEvent.type(search(), "le");
    expect(onChange.mock.calls).toEqual([[{ search: "l" }], [{ search: "le" }]]);
    expect(search()).toHaveValue("le");
  });

  test("does not load the page anew when Enter is pressed", async () => {
    const onSubmit = vi.fn((event: Event) => event.defaultPrevented);
    addEventListener("submit", onSubmit);
    show();
    await userEvent.type(search(), "le{Enter}");
    removeEventListener("submit", onSubmit);
    expect(onSubmit).toHaveReturnedWith(true);
  });
});

describe("clearing", () => {
  test("is offered only where a filter is on", () => {
    show();
    expect(screen.getByRole("button", { name: "Clear filters" })).toBeDisabled();
  });

  test.each<Partial<View>>([
    { range: rangeOf("2024-04-29") },
    { report: "" },
    { search: " " },
  ])("is offered with %o", (view) => {
    show(view);
    expect(screen.getByRole("button", { name: "Clear filters" })).toBeEnabled();
  });

  test("keeps the focus among the filters", async () => {
    show({ search: "rent" });
    await userEvent.click(screen.getByRole("button", { name: "Clear filters" }));
    expect(search()).toHaveFocus();
    expect(search()).toHaveValue("");
  });
});

test("how many messages match is announced", () => {
  show();
  expect(screen.getByRole("status")).toHaveTextContent("Showing 1 of 3 messages");
});
