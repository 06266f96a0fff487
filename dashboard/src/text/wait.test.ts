import { expect, test } from "vitest";

import { formatClock, formatWait } from "./clock";

test("a clock has two digits each", () => {
  expect(formatClock(new Date(2024, 4, 1, 8, 5).getTime())).toBe("08:05");
});

test.each([
  [200, "1 s"],
  [30_000, "30 s"],
  [120_000, "2 min"],
  [7_200_000, "2 h"],
])("%d ms to wait are %s", (ms, text) => expect(formatWait(ms)).toBe(text));
