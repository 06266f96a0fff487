import { fireEvent, render, screen, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { useState } from "react";
import { beforeEach, describe, expect, test, vi } from "vitest";

import type { DayRange } from "../period";
import { COLOURS } from "../reports";
import { addDays } from "@/text/time";
import type { Bucket } from "./buckets";
import { UsageChart } from "./usage-chart";

function bucketsOf(count: number): Bucket[] {
  return Array.from({ length: count }, (_, at) => {
    const day = addDays("2024-05-01", at);
    const parts = Array.from({ length: COLOURS }, (_, colour) => (colour ? 0 : 100));
    return { from: day, to: day, hundredths: 100, messages: 1, parts };
  });
}

beforeEach(() => {
  // jsdom has none; the chart keeps its first width, of 800 px.
  vi.stubGlobal(
    "ResizeObserver",
    class {
      observe() {}
      disconnect() {}
    },
  );
  SVGElement.prototype.setPointerCapture = () => {};
});

function show(count = 10, initially: DayRange | null = null) {
  const onChoose = vi.fn();
  function Page() {
    const [chosen, setChosen] = useState(initially);
    return (
      <UsageChart
        buckets={bucketsOf(count)}
        step="day"
        zone="UTC"
        chosen={chosen}
        onChoose={(range) => {
          onChoose(range);
          setChosen(range);
        }}
        onStep={vi.fn()}
      />
    );
  }
  render(<Page />);
  return onChoose;
}

const slider = () => screen.getByRole("slider");
const day = (from: string, to = from) => ({
  from: `2024-05-${from}`,
  to: `2024-05-${to}`,
});

describe("the keyboard", () => {
  test("chooses the newest day first, then its neighbours, then ranges", async () => {
    const onChoose = show();
    slider().focus();
    await userEvent.keyboard("{ArrowLeft}{ArrowLeft}");
    expect(slider()).toHaveAttribute(
      "aria-valuetext",
      "Thursday 9 May 2024: 1.00 credits, 1 message",
    );
    await userEvent.keyboard(
      "{Shift>}{ArrowLeft}{ArrowLeft}{ArrowRight}{ArrowRight}{ArrowRight}{/Shift}{Home}{Escape}",
    );
    expect(onChoose.mock.calls.map(([range]: unknown[]) => range)).toEqual([
      day("10"),
      day("09"),
      day("08", "09"),
      day("07", "09"),
      day("08", "09"),
      day("09"),
      day("09", "10"),
      day("01"),
      null,
    ]);
  });
});

describe("the pointer", () => {
  const drawing = () => document.querySelector(".chart-svg") as SVGSVGElement;
  const at = (number: number) => {
    const column = document.querySelectorAll(".chart-column")[number];
    const [x, width] = ["x", "width"].map((name) => Number(column?.getAttribute(name)));
    return { clientX: (x ?? 0) + (width ?? 0) / 2, button: 0, pointerId: 1 };
  };
  function drag(start: number, end: number) {
    // jsdom lays nothing out: the drawing is as wide as its view box.
    drawing().getBoundingClientRect = () => ({ left: 0, width: 800 }) as DOMRect;
    fireEvent.pointerDown(drawing(), at(start));
    fireEvent.pointerMove(drawing(), at(end));
    fireEvent.pointerUp(drawing(), at(end));
  }

  test("chooses a day, the days that it is dragged over, and none again", () => {
    const onChoose = show();
    drag(2, 2);
    drag(6, 3);
    drag(3, 6);
    expect(onChoose.mock.calls.map(([range]: unknown[]) => range)).toEqual([
      day("03"),
      day("04", "07"),
      null,
    ]);
  });
});

test("the newest days are shown; days that are chosen are always in sight", async () => {
  show(300, { from: "2024-05-03", to: "2024-05-03" });
  expect(document.querySelectorAll(".is-chosen")).toHaveLength(1);
  await userEvent.click(screen.getByRole("button", { name: "Later days" }));
  await userEvent.click(screen.getByRole("button", { name: "Later days" }));
  expect(screen.getByRole("button", { name: "Later days" })).toBeDisabled();
  expect(document.querySelectorAll(".is-chosen")).toHaveLength(0);
  expect(screen.getByRole("status")).toHaveTextContent("of 300 days");
});

test("the table has the same days, and chooses them", async () => {
  const onChoose = show(3);
  await userEvent.click(screen.getByText("Show as a table"));
  const table = await screen.findByRole("table", { name: "Credits per day (UTC)" });
  await userEvent.click(
    within(table).getByRole("button", { name: "Thursday 2 May 2024" }),
  );
  expect(onChoose).toHaveBeenCalledExactlyOnceWith(day("02"));
});

test("a chart without days says so", () => {
  show(0);
  expect(screen.getByText("No message has a date that could be read.")).toBeVisible();
});
