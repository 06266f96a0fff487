import { expect, test } from "vitest";

import { pageAt, pageWith } from "./pages";

const DAYS = Array.from({ length: 10 }, (_, at) => {
  const day = `2024-05-${String(at + 1).padStart(2, "0")}`;
  return { from: day, to: day };
});
const shown = (number: number, size: number) => {
  const { buckets, hasEarlier, hasLater } = pageAt(DAYS, number, size);
  return [
    buckets.at(0)?.from.slice(-2),
    buckets.at(-1)?.to.slice(-2),
    hasEarlier,
    hasLater,
  ];
};

test("the first page has the newest days, and each page is full", () => {
  expect(shown(0, 4)).toEqual(["07", "10", true, false]);
  expect(shown(1, 4)).toEqual(["03", "06", true, true]);
  expect(shown(2, 4)).toEqual(["01", "04", false, true]);
  expect(shown(9, 4)).toEqual(shown(2, 4));
});

test("days that fit are one page", () => {
  expect(shown(0, 10)).toEqual(["01", "10", false, false]);
});

test.each([
  ["2024-05-10", 0],
  ["2024-05-06", 1],
  ["2024-05-01", 2],
  ["2030-01-01", 0],
  [null, 0],
])("the page of %s is %d", (day, page) => {
  expect(pageWith(DAYS, day, 4)).toBe(page);
});
