import { http, HttpResponse } from "msw";
import { setupServer } from "msw/node";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

import { ApiError } from "@/api/client";

import type { Selection } from "./failed-events";
import { doneOf, NOTHING_DONE, percentOf, run, type Progress } from "./run";

const server = setupServer();
beforeAll(() => server.listen({ onUnhandledRequest: "error" }));
afterEach(() => server.resetHandlers());
afterAll(() => server.close());

const SELECTION: Selection = {
  application: null,
  code: "schema",
  category: null,
  name: null,
  isUntyped: true,
  id: null,
};

function answerSteps(path: string, steps: object[]): unknown[] {
  const bodies: unknown[] = [];
  server.use(
    http.post(`*${path}`, async ({ request }) => {
      bodies.push(await request.json());
      return HttpResponse.json(steps[bodies.length - 1] ?? {});
    }),
  );
  return bodies;
}

async function collect(steps: AsyncGenerator<Progress>): Promise<Progress[]> {
  const all: Progress[] = [];
  for await (const step of steps) all.push(step);
  return all;
}

describe("a run", () => {
  test("repeats steps with their cursor until there is none, and adds them up", async () => {
    const bodies = answerSteps("/events/failed/replay", [
      { accepted: 2, duplicates: 1, failed: 0, remaining: 3, next: "abc" },
      { accepted: 1, duplicates: 0, failed: 2, remaining: 0, next: null },
    ]);
    const steps = await collect(run("replay", SELECTION, new AbortController().signal));
    expect(bodies).toEqual([
      { code: "schema", untyped: true, limit: 1000, cursor: null },
      { code: "schema", untyped: true, limit: 1000, cursor: "abc" },
    ]);
    expect(steps.map(percentOf)).toEqual([50, 100]);
    expect(steps.at(-1)).toMatchObject({ accepted: 3, duplicates: 1, failed: 2 });
  });

  test("that is stopped begins no further step, and keeps what is done", async () => {
    const bodies = answerSteps("/events/failed/discard", [
      { discarded: 1000, remaining: 10_000, next: "abc" },
    ]);
    const controller = new AbortController();
    const steps: Progress[] = [];
    for await (const step of run("discard", SELECTION, controller.signal)) {
      steps.push(step);
      controller.abort();
    }
    expect(bodies).toHaveLength(1);
    expect(steps.map(doneOf)).toEqual([1000]);
    // More than are counted may remain.
    expect(steps.map(percentOf)).toEqual([null]);
  });

  test("that continues begins behind what is done, and adds to it", async () => {
    const bodies = answerSteps("/events/failed/replay", [
      { accepted: 0, duplicates: 0, failed: 5, remaining: 0, next: null },
    ]);
    const before = {
      ...NOTHING_DONE,
      accepted: 1,
      failed: 3,
      remaining: 5,
      next: "abc",
    };
    const { signal } = new AbortController();
    const steps = await collect(run("replay", SELECTION, signal, before));
    expect(bodies).toMatchObject([{ cursor: "abc" }]);
    expect(steps).toMatchObject([{ accepted: 1, failed: 8, next: null }]);
  });

  test("ends with the error of a step", async () => {
    server.use(
      http.post("*/events/failed/replay", () =>
        HttpResponse.json({ code: "query_timeout" }, { status: 503 }),
      ),
    );
    const steps = collect(run("replay", SELECTION, new AbortController().signal));
    await expect(steps).rejects.toBeInstanceOf(ApiError);
  });
});

test("a run that has not begun has no share", () => {
  expect(percentOf(NOTHING_DONE)).toBeNull();
});
