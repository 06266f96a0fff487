import { describe, expect, it } from "vitest";

import { nameStep } from "./step-names";

describe("nameStep", () => {
  it.each([
    "report",
    "base",
    "characters",
    "words",
    "third_vowels",
    "length_penalty",
    "unique_words",
    "palindrome",
    "tokens",
    "minimum",
  ])("has words of its own for the plans' step %s", (step) => {
    expect(nameStep(step)).toMatch(/ /);
    expect(nameStep(step)).not.toMatch(/_/);
  });

  it.each([
    ["late_night-fee", "Late night fee"],
    ["surcharge", "Surcharge"],
    ["constructor", "Constructor"],
    ["", ""],
  ])("shows a step it does not know, %j, as %j", (step, words) => {
    expect(nameStep(step)).toBe(words);
  });
});
