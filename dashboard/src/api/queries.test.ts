import { describe, expect, test } from "vitest";

import { ApiError } from "./client";
import { createQueryClient, shouldRetry, waitBefore } from "./queries";

const problem = { title: "", detail: "", code: "", requestId: null };
const failed = (status: number, retryAfterMs: number | null = null) =>
  new ApiError(problem, status, retryAfterMs);

describe("asking again", () => {
  test.each([
    ["no connection", failed(0), true],
    ["a busy service", failed(429), true],
    ["a broken service", failed(503), true],
    ["a wrong question", failed(400), false],
    ["an answer that nobody understands", failed(422), false],
    ["an error of the page itself", new TypeError("x"), false],
  ])("after %s is as sensible as it is", (_, error, again) => {
    expect(shouldRetry(0, error)).toBe(again);
  });

  test("ends after three times", () => {
    expect([2, 3].map((failures) => shouldRetry(failures, failed(503)))).toEqual([
      true,
      false,
    ]);
  });

  test("waits longer each time, to a limit", () => {
    const waits = [0, 1, 2, 9].map((failures) => waitBefore(failures, failed(503)));
    expect(waits).toEqual([500, 1000, 2000, 8000]);
  });

  test("waits as long as the service asks", () => {
    expect(waitBefore(0, failed(503, 3000))).toBe(3000);
    expect(waitBefore(0, failed(503, 0))).toBe(0);
  });

  test("does not wait for hours, which a person decides about", () => {
    expect(waitBefore(0, failed(503, 3_600_000))).toBe(10_000);
  });
});

test("every question of the page is retried this way", () => {
  const { queries } = createQueryClient().getDefaultOptions();
  expect(queries?.retry).toBe(shouldRetry);
  expect(queries?.retryDelay).toBe(waitBefore);
});
