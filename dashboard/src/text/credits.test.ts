import { describe, expect, test } from "vitest";

import {
  countOf,
  formatCredits,
  formatDifference,
  plainCredits,
  toHundredths,
} from "./credits";

describe("toHundredths", () => {
  test.each([
    [79, 7900],
    [5.2, 520],
    [0, 0],
    [0.1 + 0.2, 30],
    [1.15, 115],
    [-2.35, -235],
    [90_071_992_547_409.91, 9_007_199_254_740_991],
  ])("counts %d credits exactly", (credits, hundredths) => {
    expect(toHundredths(credits)).toBe(hundredths);
  });

  test.each([null, undefined, "5", Number.NaN, Infinity, 1e300, {}, true])(
    "does not take %s for a number of credits",
    (value) => expect(toHundredths(value)).toBeNull(),
  );

  test("adds a hundred thousand prices without drifting", () => {
    const prices = Array.from({ length: 100_000 }, () => 0.1);
    const sum = prices.reduce((total, price) => total + (toHundredths(price) ?? 0), 0);
    expect(formatCredits(sum)).toBe("10,000.00");
  });
});

describe("formatCredits", () => {
  test.each([
    [0, "0.00"],
    [5, "0.05"],
    [520, "5.20"],
    [123_456_789, "1,234,567.89"],
    [-1, "−0.01"],
  ])("writes %d hundredths for people as %s", (hundredths, text) => {
    expect(formatCredits(hundredths)).toBe(text);
  });
});

describe("plainCredits", () => {
  test.each([
    [123_456_789, "1234567.89"],
    [-105, "-1.05"],
  ])("writes %d hundredths for programs as %s", (hundredths, text) => {
    expect(plainCredits(hundredths)).toBe(text);
  });
});

describe("formatDifference", () => {
  test.each([
    [12_340, "+123.40"],
    [-6_980, "−69.80"],
    [0, "±0.00"],
  ])("gives %d hundredths the sign in %s", (hundredths, text) => {
    expect(formatDifference(hundredths)).toBe(text);
  });
});

describe("countOf", () => {
  test.each([
    [0, "0 messages"],
    [1, "1 message"],
    [1_234, "1,234 messages"],
  ])("counts %d as %s", (count, text) => expect(countOf(count, "message")).toBe(text));
});
