import { expect, test } from "vitest";

import { titleOf, wordsOf } from "./problems";

test("a known code has words for people", () => {
  const words = wordsOf({ code: "unauthorized", title: "A key", detail: "Send one." });
  expect(words.title).toBe("You are not signed in any more");
  expect(words.advice).toMatch(/Sign in again/);
});

test("an unknown code has the words of the service", () => {
  const problem = { code: "http_502", title: "No answer", detail: "Status 502." };
  expect(wordsOf(problem)).toEqual({ title: "No answer", advice: "Status 502." });
  expect(titleOf("some_new_code")).toBe("some new code");
});

test.each(["constructor", "__proto__"])("a code named %s is unknown", (code) => {
  expect(wordsOf({ code, title: "T", detail: "D" }).title).toBe("T");
});
