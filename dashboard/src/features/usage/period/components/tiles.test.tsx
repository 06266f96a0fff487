import { render, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { Tiles } from "./tiles";

const NOW = Date.UTC(2024, 4, 3, 14, 30);
const freshness = { asOf: NOW - 12_000, staleTimeMs: 60_000, isStale: false };

beforeEach(() => vi.useFakeTimers({ now: NOW }));
afterEach(() => vi.useRealTimers());

function figures(): Record<string, string> {
  const titles = screen.getAllByRole("term");
  const tileOf = (title: HTMLElement) =>
    title.parentElement?.querySelectorAll("dd") ?? [];
  return Object.fromEntries(
    titles.map((title) => [
      title.textContent,
      Array.from(tileOf(title), (figure) => figure.textContent).join(" | "),
    ]),
  );
}

test("the figures of the period are named and written for people", () => {
  const totals = { hundredths: 244_200, messages: 1_110, byReport: 31 };
  const busiest = { day: "2024-05-09", hundredths: 12_815, messages: 3 };
  render(<Tiles totals={totals} busiest={busiest} freshness={freshness} />);
  expect(figures()).toEqual({
    "Total credits": "2,442.00",
    Messages: "1,110",
    "Priced by a report": "3% | 31 messages",
    "Busiest day": "9 May | 128.15 credits",
    "Last updated": "12 seconds ago | 3 May, 14:29 UTC",
  });
});

test("a period without messages has no share and no busiest day", () => {
  const totals = { hundredths: 0, messages: 0, byReport: 0 };
  render(<Tiles totals={totals} busiest={null} freshness={freshness} />);
  expect(figures()).toMatchObject({
    "Total credits": "0.00",
    "Priced by a report": "– | 0 messages",
    "Busiest day": "– | No credits used yet",
  });
});
