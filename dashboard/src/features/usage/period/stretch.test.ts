import { expect, test } from "vitest";

import { MOST_DAYS_AT_ONCE, lastStretch, stretchAt, stretchWith } from "./stretch";

const daysOf = (count: number) =>
  Array.from({ length: count }, (_, at) => ({
    day: `d${at}`,
    hundredths: 1,
    messages: 1,
  }));

test("a billing period is shown whole", () => {
  const days = daysOf(31);
  expect(stretchAt(days, lastStretch(days))).toEqual({
    days,
    hasEarlier: false,
    hasLater: false,
  });
});

test("a year is shown whole too, and a day more is not", () => {
  expect(lastStretch(daysOf(MOST_DAYS_AT_ONCE))).toBe(0);
  expect(lastStretch(daysOf(MOST_DAYS_AT_ONCE + 1))).toBe(1);
});

test("the stretches of a long period have each day once", () => {
  const days = daysOf(3_660);
  const numbers = Array.from({ length: lastStretch(days) + 1 }, (_, number) => number);
  const stretches = numbers.map((number) => stretchAt(days, number));
  expect(stretches.flatMap((stretch) => stretch.days)).toEqual(days);
  expect(stretches.filter((stretch) => !stretch.hasEarlier)).toHaveLength(1);
  expect(stretches.filter((stretch) => !stretch.hasLater)).toHaveLength(1);
});

test("a chosen day is in the stretch that is shown; else it is the latest", () => {
  const days = daysOf(1_000);
  expect(stretchWith(days, "d0")).toBe(0);
  expect(stretchWith(days, "d400")).toBe(1);
  expect(stretchWith(days, "not a day")).toBe(2);
  expect(stretchWith(days, null)).toBe(2);
});

test("a period without a day has one empty stretch", () => {
  expect(stretchAt([], stretchWith([], null)).days).toEqual([]);
});
