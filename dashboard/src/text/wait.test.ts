import { expect, test } from "vitest";

import { formatWait } from "./wait";

test.each([
  [200, "1 s"],
  [30_000, "30 s"],
  [120_000, "2 min"],
  [7_200_000, "2 h"],
])("%d ms to wait are %s", (ms, text) => expect(formatWait(ms)).toBe(text));
