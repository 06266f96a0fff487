import { act, render, screen } from "@testing-library/react";
import { Profiler } from "react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { Updated } from "./age";

const NOW = Date.UTC(2024, 4, 3, 14, 30);

beforeEach(() => vi.useFakeTimers({ now: NOW }));
afterEach(() => vi.useRealTimers());

function pass(ms: number) {
  act(() => void vi.advanceTimersByTime(ms));
}
const words = () => screen.getByText(/^Updated/).textContent;

test("the age is told each second of the first minute", () => {
  render(<Updated asOf={NOW - 12_000} />);
  expect(words()).toBe("Updated 12 seconds ago");
  pass(1_000);
  expect(words()).toBe("Updated 13 seconds ago");
});

test("the age is told each minute from then on, and no more often", () => {
  const rendered = vi.fn();
  render(
    <Profiler id="updated" onRender={rendered}>
      <Updated asOf={NOW - 90_000} />
    </Profiler>,
  );
  rendered.mockClear();
  pass(30_000);
  expect(words()).toBe("Updated 2 minutes ago");
  pass(59_000);
  expect(rendered).toHaveBeenCalledTimes(1);
  pass(1_000);
  expect(words()).toBe("Updated 3 minutes ago");
});

test("newer figures start anew", () => {
  const { rerender } = render(<Updated asOf={NOW - 90_000} />);
  rerender(<Updated asOf={NOW - 6_000} />);
  expect(words()).toBe("Updated 6 seconds ago");
});

test("figures from a clock that is ahead are from just now", () => {
  render(<Updated asOf={NOW + 60_000} />);
  expect(words()).toBe("Updated just now");
});

test("the moment itself is there for machines", () => {
  render(<Updated asOf={NOW} />);
  expect(screen.getByText("just now")).toHaveAttribute(
    "datetime",
    "2024-05-03T14:30:00.000Z",
  );
});

test("nothing ticks on after the page has gone", () => {
  render(<Updated asOf={NOW} />).unmount();
  expect(vi.getTimerCount()).toBe(0);
});
