import { describe, expect, test } from "vitest";

import { formatShare } from "./share";

describe("formatShare", () => {
  test.each([
    [31, 110, "28%"],
    [0, 10, "0%"],
    [10, 10, "100%"],
    [1, 1_000, "under 1%"],
    [999, 1_000, "over 99%"],
    [0, 0, "–"],
  ])("calls %d of %d %s", (part, whole, text) => {
    expect(formatShare(part, whole)).toBe(text);
  });
});
