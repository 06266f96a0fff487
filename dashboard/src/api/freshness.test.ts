import { expect, test } from "vitest";

import { freshnessOf } from "./freshness";

const NOW = 1_700_000_000_000;

test("an answer's age and lifetime come from its headers", () => {
  const headers = new Headers({
    Age: "12",
    "Cache-Control": "max-age=48, stale-while-revalidate=300",
    "Cache-Status": "copilot-usage; hit",
  });
  expect(freshnessOf(headers, NOW)).toEqual({
    asOf: NOW - 12_000,
    staleTimeMs: 48_000,
    isStale: false,
  });
});

test("an answer that says nothing is new, and not asked for again at once", () => {
  expect(freshnessOf(new Headers(), NOW)).toEqual({
    asOf: NOW,
    staleTimeMs: 5_000,
    isStale: false,
  });
});

test.each(["-5", "soon", "Infinity"])("an age of %s counts as none", (age) => {
  expect(freshnessOf(new Headers({ Age: age }), NOW).asOf).toBe(NOW);
});

test("a lifetime for shared caches is not the page's", () => {
  const headers = new Headers({ "Cache-Control": "public, s-maxage=900" });
  expect(freshnessOf(headers, NOW).staleTimeMs).toBe(5_000);
});

test("an answer that could not be refreshed says so", () => {
  const headers = new Headers({ "Cache-Status": "copilot-usage; hit; detail=stale" });
  expect(freshnessOf(headers, NOW).isStale).toBe(true);
});
