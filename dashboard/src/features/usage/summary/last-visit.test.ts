import { renderHook } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { useLastVisit } from "./last-visit";

const KEY = "copilot-usage.last-visit";
const visit = (revision: number | null) =>
  renderHook(() => useLastVisit({ id: "2024-04-29", revision })).result.current;

beforeEach(() => localStorage.clear());
afterEach(() => vi.restoreAllMocks());

test("a visit knows the revision of the one before", () => {
  expect(visit(17)).toBeNull();
  expect(visit(18)).toMatchObject({ period: "2024-04-29", revision: 17 });
});

test("nothing but period, revision and time is stored", () => {
  visit(17);
  const kept: unknown = JSON.parse(localStorage.getItem(KEY) ?? "");
  expect(Object.keys(kept as object)).toEqual(["period", "revision", "at"]);
});

test.each(["{", "null", "[]", '{"period": 1, "revision": 2, "at": 3}'])(
  "what is stored may be anything: %s",
  (text) => {
    localStorage.setItem(KEY, text);
    expect(visit(null)).toBeNull();
  },
);

test("a browser without storage has no last visit", () => {
  const fail = () => {
    throw new DOMException("denied", "SecurityError");
  };
  vi.spyOn(Storage.prototype, "getItem").mockImplementation(fail);
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(fail);
  expect(visit(17)).toBeNull();
});
