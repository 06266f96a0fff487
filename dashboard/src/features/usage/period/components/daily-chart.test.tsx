import { fireEvent, render, screen, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

import type { Day } from "../period";
import { DailyChart } from "./daily-chart";

const WIDTH = 600;
const HEIGHT = 200;

class NothingResizes implements ResizeObserver {
  observe() {}
  unobserve() {}
  disconnect() {}
}

afterEach(() => vi.unstubAllGlobals());

beforeEach(() => {
  // jsdom lays nothing out; the chart draws into the size that it is told.
  vi.stubGlobal("ResizeObserver", NothingResizes);
  const box = new DOMRect(0, 0, WIDTH, HEIGHT);
  vi.spyOn(HTMLElement.prototype, "getBoundingClientRect").mockReturnValue(box);
});

function daysOf(hundredths: readonly number[], first = "2024-04-29"): Day[] {
  return hundredths.map((amount, at) => ({
    day: new Date(Date.parse(first) + at * 86_400_000).toISOString().slice(0, 10),
    hundredths: amount,
    messages: 2,
  }));
}

const DAYS = daysOf([500, 0, 2_000]);
const show = (days: readonly Day[], chosen: string | null = null) => {
  const onChoose = vi.fn();
  const { container } = render(
    <DailyChart days={days} chosen={chosen} onChoose={onChoose} />,
  );
  const rects = (kind: string) => [...container.querySelectorAll(`rect.chart-${kind}`)];
  return { onChoose, container, rects };
};
const place = (rect: Element | undefined, name: string) =>
  Number(rect?.getAttribute(name));

describe("the bars", () => {
  test("are one for each day, as high as its credits, from the ground", () => {
    const { rects } = show(DAYS);
    const heights = rects("bar").map((bar) => place(bar, "height"));
    // The highest line is 20 credits.
    expect(heights).toEqual([HEIGHT / 4, 0, HEIGHT]);
    expect(place(rects("bar")[0], "y") + HEIGHT / 4).toBe(HEIGHT);
  });

  test("agree with the lines that name credits", () => {
    const { rects, container } = show(daysOf([-1_000, 3_000]));
    const lines = [...container.querySelectorAll<HTMLElement>(".chart-line")];
    const zero = lines.find((line) => line.textContent === "0");
    const ground = HEIGHT * (1 - Number.parseFloat(zero?.style.bottom ?? "") / 100);
    const [below, above] = rects("bar");
    expect(place(below, "y")).toBeCloseTo(ground);
    expect(place(above, "y") + place(above, "height")).toBeCloseTo(ground);
  });

  test("share the whole width in columns that can be pointed at", () => {
    const { rects } = show(DAYS);
    const columns = rects("column");
    expect(columns.map((column) => place(column, "width"))).toEqual([200, 200, 200]);
    expect(columns.map((column) => place(column, "height"))).toEqual([200, 200, 200]);
  });

  test.each([
    ["one day", daysOf([520])],
    ["days without credits", daysOf([0, 0, 0])],
    ["a year", daysOf(Array<number>(366).fill(100))],
  ])("have numbers for their places over %s", (_, days) => {
    const { container, rects } = show(days);
    expect(rects("bar")).toHaveLength(days.length);
    expect(container.innerHTML).not.toMatch(/NaN|Infinity/);
  });

  test("say in one sentence what they show, to those who do not see them", () => {
    show(DAYS);
    expect(screen.getByRole("img")).toHaveAccessibleName(
      /over 3 days, .*the most on Wednesday 1 May 2024: 20.00/,
    );
  });

  test("scroll by keyboard where they may be too many for the screen", () => {
    show(daysOf(Array<number>(122).fill(1)));
    expect(screen.getByRole("region", { name: /scrolls/ })).toHaveAttribute(
      "tabindex",
      "0",
    );
  });
});

describe("choosing", () => {
  test("a bar chooses its day, and so does the empty column of an idle day", async () => {
    const { onChoose, rects } = show(DAYS);
    await userEvent.click(rects("bar")[2] as Element);
    await userEvent.click(rects("column")[1] as Element);
    expect(onChoose.mock.calls).toEqual([["2024-05-01"], ["2024-04-30"]]);
  });

  test("the chosen bar again removes the choice", async () => {
    const { onChoose, rects } = show(DAYS, "2024-05-01");
    await userEvent.click(rects("bar")[2] as Element);
    expect(onChoose).toHaveBeenCalledExactlyOnceWith(null);
  });

  test("the chosen bar stands out and the others step back", () => {
    const { rects } = show(DAYS, "2024-05-01");
    expect(rects("bar").map((bar) => bar.classList.item(1))).toEqual([
      "is-muted",
      "is-muted",
      "is-chosen",
    ]);
  });

  test("the day pointed at, or else the chosen one, is read out in words", () => {
    const { rects, container } = show(DAYS, "2024-05-01");
    expect(screen.getByText("20.00 credits")).toBeVisible();
    fireEvent.mouseEnter(rects("column")[0] as Element);
    expect(screen.getByText("5.00 credits")).toBeVisible();
    fireEvent.mouseLeave(container.querySelector(".chart-bars") as Element);
    expect(screen.getByText("20.00 credits")).toBeVisible();
  });
});

describe("the table behind the chart", () => {
  const open = () => fireEvent(detailsOf(), openedBy(detailsOf()));
  const detailsOf = () => {
    const details = screen.getByText("Show as a table").closest("details");
    if (!details) throw new Error("no details");
    return details;
  };
  const openedBy = (details: HTMLDetailsElement) => {
    details.open = true;
    return new Event("toggle");
  };

  test("has the numbers of every day", () => {
    show(DAYS);
    open();
    const table = screen.getByRole("table", { name: "Credits per day (UTC)" });
    const rows = within(table).getAllByRole("row").slice(1);
    expect(
      rows.map((row) => [...row.children].map((cell) => cell.textContent)),
    ).toEqual([
      ["Monday 29 April 2024", "2", "5.00"],
      ["Tuesday 30 April 2024", "2", "0.00"],
      ["Wednesday 1 May 2024", "2", "20.00"],
    ]);
  });

  test("chooses a day by keyboard, and shows which one is chosen", async () => {
    const { onChoose } = show(DAYS, "2024-05-01");
    open();
    const pressed = screen.getByRole("button", { pressed: true });
    expect(pressed).toHaveTextContent("Wednesday 1 May 2024");
    screen.getByRole("button", { name: "Monday 29 April 2024" }).focus();
    await userEvent.keyboard("{Enter}");
    expect(onChoose).toHaveBeenCalledExactlyOnceWith("2024-04-29");
  });

  test("is not made before somebody asks for it", () => {
    show(DAYS);
    expect(screen.queryByRole("table", { hidden: true })).toBeNull();
  });
});

describe("a period of ten years", () => {
  const days = daysOf(Array<number>(3_660).fill(100), "2014-01-01");

  test("shows a year at once, the latest first, and turns to the others", async () => {
    const { rects } = show(days);
    expect(rects("bar")).toHaveLength(366);
    expect(screen.getByText(/to Monday 8 January 2024, of 3,660 days/)).toBeVisible();
    expect(screen.getByRole("button", { name: "Later days" })).toBeDisabled();
    await userEvent.click(screen.getByRole("button", { name: "Earlier days" }));
    expect(screen.getByText(/to Saturday 7 January 2023, of/)).toBeVisible();
  });

  test("turns to a day that was chosen elsewhere", () => {
    const { rects } = show(days, "2014-01-05");
    expect(rects("bar")[4]).toHaveClass("is-chosen");
    expect(screen.getByRole("button", { name: "Earlier days" })).toBeDisabled();
  });

  test("stays where it is when its own bar is chosen and let go", async () => {
    const { rerender, container } = render(
      <DailyChart days={days} chosen="2014-01-05" onChoose={() => undefined} />,
    );
    await userEvent.click(container.querySelector("rect.is-chosen") as Element);
    rerender(<DailyChart days={days} chosen={null} onChoose={() => undefined} />);
    expect(screen.getByRole("button", { name: "Earlier days" })).toBeDisabled();
  });
});

test("messages without a readable date leave nothing to draw, and that is said", () => {
  show([]);
  expect(screen.getByText("No message has a date that could be read.")).toBeVisible();
  expect(screen.queryByRole("img")).toBeNull();
});
