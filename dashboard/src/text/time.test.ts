import { describe, expect, test } from "vitest";

import {
  dayOf,
  addDays,
  daysBetween,
  formatAge,
  formatDay,
  formatInstant,
  formatLongDay,
  formatRange,
  isDay,
  readInstant,
  weekdayOf,
} from "./time";

const INSTANT = Date.UTC(2024, 3, 29, 3, 25, 3);

describe("readInstant", () => {
  test.each([
    "2024-04-29T03:25:03Z",
    "2024-04-29t03:25:03z",
    "2024-04-29 03:25:03",
    "2024-04-29T03:25:03",
    "2024-04-29T04:25:03+01:00",
    "2024-04-29T04:25:03+01",
    "2024-04-29T08:55:03+0530",
    "2024-04-28T23:25:03-0400",
    " 2024-04-29T03:25:03.000000Z ",
  ])("reads %s as the same moment", (timestamp) => {
    expect(readInstant(timestamp)).toBe(INSTANT);
  });

  test("reads a day without a time as its beginning in UTC", () => {
    expect(readInstant("2024-04-29")).toBe(Date.UTC(2024, 3, 29));
  });

  test.each([
    "",
    "yesterday",
    "5",
    "May 5 2024",
    "2024-13-01T00:00:00Z",
    "2024-04-29T25:00:00Z",
    "+010000-01-01T00:00:00Z",
    "9999-12-31T23:59:59-01:00",
    "0001-01-01T00:00:00+01:00",
    "2024-04-29T03:25:03Z and more",
  ])("does not guess what %o means", (timestamp) => {
    expect(readInstant(timestamp)).toBeNull();
  });
});

describe("formats", () => {
  test("a moment is written day first, in UTC", () => {
    expect(formatInstant(INSTANT)).toBe("29-04-2024 03:25");
  });

  test("a moment belongs to its UTC day", () => {
    expect(dayOf(Date.parse("2024-04-30T00:30:00+01:00"))).toBe("2024-04-29");
  });

  test("a day is written shortly and at length", () => {
    expect(formatDay("2024-04-29")).toBe("29-04-2024");
    expect(formatLongDay("2024-04-29")).toBe("Monday 29 April 2024");
  });

  test("a range is one day, or two dates", () => {
    expect(formatRange({ from: "2024-04-29", to: "2024-04-29" })).toBe(
      "Monday 29 April 2024",
    );
    expect(formatRange({ from: "2024-04-29", to: "2024-05-02" })).toBe(
      "29-04-2024 to 02-05-2024",
    );
  });

  test("weeks begin on Monday, also across the end of a month", () => {
    expect([weekdayOf("2024-04-29"), weekdayOf("2024-05-05")]).toEqual([0, 6]);
    expect(addDays("2024-05-02", -weekdayOf("2024-05-02"))).toBe("2024-04-29");
  });
});

describe("isDay", () => {
  test.each([
    ["2024-02-29", true],
    ["2023-02-29", false],
    ["2024-02-30", false],
    ["2024-00-10", false],
    ["2024-2-3", false],
    ["2024-02-03T00:00", false],
    ["", false],
  ])("judges %o as %o", (text, answer) => expect(isDay(text)).toBe(answer));
});

describe("daysBetween", () => {
  test("counts both ends and a leap day", () => {
    expect(daysBetween("2024-02-28", "2024-03-01", 10)).toEqual([
      "2024-02-28",
      "2024-02-29",
      "2024-03-01",
    ]);
  });

  test("loses no day where clocks change", () => {
    expect(daysBetween("2024-03-01", "2024-11-30", 400)).toHaveLength(275);
  });

  test("gives none for a range that is backwards, too long or unreadable", () => {
    expect(daysBetween("2024-03-02", "2024-03-01", 10)).toEqual([]);
    expect(daysBetween("2024-03-01", "2024-03-11", 10)).toEqual([]);
    expect(daysBetween("2024-03-01", "never", 10)).toEqual([]);
  });
});

describe("formatAge", () => {
  test.each([
    [-9, "just now"],
    [4.9, "just now"],
    [5, "5 seconds ago"],
    [59.9, "59 seconds ago"],
    [60, "1 minute ago"],
    [3_599, "59 minutes ago"],
    [3_600, "1 hour ago"],
    [86_399, "23 hours ago"],
    [172_800, "2 days ago"],
  ])("%d seconds are %s", (seconds, text) => {
    expect(formatAge(seconds * 1000)).toBe(text);
  });
});
