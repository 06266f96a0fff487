import { expect, test } from "vitest";

import { queryWith } from "./use-address";

test("a change keeps the other parameters, and null removes one", () => {
  expect(queryWith("?embed=1&view=keys", { view: null, code: "a b&c" })).toBe(
    "?embed=1&code=a+b%26c",
  );
});

test("no parameter is no query", () => {
  expect(queryWith("?view=keys", { view: null })).toBe("");
});

test("a lone surrogate, which has no encoding, is replaced", () => {
  expect(queryWith("", { name: "a\uD800" })).toBe("?name=a%EF%BF%BD");
});
