import { act, render, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { ApiError } from "@/api/client";

import { ProblemNotice } from "./problem-notice";

const refused = (code: string, retryAfterMs: number | null) =>
  new ApiError({ title: "T", detail: "D.", code, requestId: "r1" }, 503, retryAfterMs);

beforeEach(() => void vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

test("an error has words for people, and the id of its request", () => {
  render(<ProblemNotice error={refused("vehicle_unavailable", null)} />);
  expect(screen.getByRole("alert")).toHaveTextContent(
    "vPIC does not answer at the moment. This VIN is not cached.",
  );
  expect(screen.getByText("r1")).toBeInTheDocument();
  expect(screen.queryByText(/asks you to wait/)).not.toBeInTheDocument();
});

test("a time to wait is counted down", () => {
  render(<ProblemNotice error={refused("overloaded", 3_000)} />);
  expect(screen.getByText(/asks you to wait 3 s/)).toBeInTheDocument();
  act(() => void vi.advanceTimersByTime(2_000));
  expect(screen.getByText(/asks you to wait 1 s/)).toBeInTheDocument();
  act(() => void vi.advanceTimersByTime(1_000));
  expect(screen.getByText("You can try again now.")).toBeInTheDocument();
});

test("a mistake of the page shows no text of the program", () => {
  render(<ProblemNotice error={new Error("x is undefined")} />);
  expect(screen.getByRole("alert")).toHaveTextContent("This page has made a mistake.");
  expect(screen.getByRole("alert")).not.toHaveTextContent("undefined");
});
