import { expect, test } from "vitest";

import { ignoredOf } from "./ignored";

test.each([
  ["tz=Mars/Base", ["tz=Mars/Base"]],
  ["from=2024-13-01&to=2024-05-07", ["from=2024-13-01", "to=2024-05-07"]],
  ["from=2024-05-01", ["from=2024-05-01"]],
  ["from=2024-05-07&to=2024-05-01", ["from=2024-05-07", "to=2024-05-01"]],
  ["day=2024-02-30&search=rent", ["day=2024-02-30"]],
  ["by=year&period=latest&plan=A+b", ["plan=A b", "period=latest", "by=year"]],
  ["embed=yes", ["embed=yes"]],
  ["sorting=bogus:asc;credits_used:desc", ["sorting=bogus:asc"]],
  ["sorting=report_name", ["sorting=report_name"]],
  ["sorting=x;;credits_used:UP&tz=Mars", ["tz=Mars", "sorting=x;credits_used:UP"]],
])("of ?%s, the page ignores %j", (query, ignored) =>
  expect(ignoredOf(`?${query}`)).toEqual(ignored),
);

test.each([
  "",
  "tz=UTC&by=day&embed=0",
  "tz=europe/london",
  "day=2024-05-01",
  "from=2024-05-01&to=2024-05-01",
  "report=&search=&plan=&period=&tz=&day=&sorting=",
  "sorting=credits_used:desc;report_name:asc",
  "search=a%00b&report=%ED%A0%80",
])("of ?%s, the page ignores nothing", (query) =>
  expect(ignoredOf(`?${query}`)).toEqual([]),
);

test("parameters of other software are no mistake", () => {
  expect(ignoredOf("?utm_source=mail&toString=1&constructor=2")).toEqual([]);
});

test("a text that is cut is not ignored", () => {
  expect(ignoredOf(`?search=${"x".repeat(1_000)}`)).toEqual([]);
});

test("a report's name that is too long is named in short", () => {
  const [only, ...more] = ignoredOf(`?report=${"x".repeat(1_000)}`);
  expect(only).toMatch(/^report=x{40,60}…$/);
  expect(more).toEqual([]);
});
