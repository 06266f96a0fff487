import { describe, expect, test } from "vitest";

import { scaleBand, scaleLinear } from "./scales";

describe("scaleBand", () => {
  test("gives each category an equal band, side by side", () => {
    const scale = scaleBand();
    scale.domain(["a", "b", "c", "d"]);
    scale.range([10, 90]);
    expect(["a", "b", "d"].map((each) => scale(each))).toEqual([10, 30, 70]);
    expect(scale.bandwidth()).toBe(20);
  });

  test("has no place for what is no category, and one for a category named twice", () => {
    const scale = scaleBand();
    scale.domain([1, 1, 2]);
    scale.range([0, 10]);
    expect(scale(3)).toBeUndefined();
    expect(scale(2)).toBe(5);
    expect(scale.domain()).toEqual([1, 2]);
  });

  test("forgets the categories that it had before", () => {
    const scale = scaleBand();
    scale.domain(["a", "b"]);
    scale.domain(["b"]);
    expect(scale("a")).toBeUndefined();
    expect(scale.bandwidth()).toBe(1);
  });

  test("survives having no category", () => {
    const scale = scaleBand();
    scale.range([0, 10]);
    expect(scale.bandwidth()).toBe(10);
  });
});

describe("scaleLinear", () => {
  test("keeps proportions, upside down and below zero too", () => {
    const scale = scaleLinear();
    scale.domain([-20, 60]);
    scale.range([160, 0]);
    expect([-20, 0, 60].map((each) => scale(each))).toEqual([160, 120, 0]);
    expect(scale.range()).toEqual([160, 0]);
  });

  test("does not divide by nothing", () => {
    const scale = scaleLinear();
    scale.domain([5, 5]);
    scale.range([0, 10]);
    expect(scale(5)).toBe(5);
  });
});
