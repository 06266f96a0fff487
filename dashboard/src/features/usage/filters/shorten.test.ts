import { describe, expect, test } from "vitest";

import { shorten } from "./shorten";

describe("shorten", () => {
  test("leaves a name that fits", () => {
    expect(shorten("Tenant Obligations Report")).toBe("Tenant Obligations Report");
  });

  test("cuts a name of 10,000 characters to a line", () => {
    expect(shorten("x".repeat(10_000))).toBe(`${"x".repeat(59)}…`);
  });

  test("cuts no character in half", () => {
    expect(shorten("🏠".repeat(100)).isWellFormed()).toBe(true);
  });
});
