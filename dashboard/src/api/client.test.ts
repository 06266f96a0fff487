import { http, HttpResponse, type JsonBodyType } from "msw";
import { setupServer } from "msw/node";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";

import {
  ApiError,
  getJson,
  isRecord,
  request,
  unreadable,
  type RequestOptions,
} from "./client";
import { setCsrfToken } from "./csrf";

const server = setupServer();
beforeAll(() => server.listen({ onUnhandledRequest: "error" }));
afterEach(() => server.resetHandlers());
afterAll(() => server.close());

const ask = (parameters: Record<string, string | null> = {}, signal?: AbortSignal) =>
  getJson("/usage", parameters, signal ?? new AbortController().signal);

function answer(body: JsonBodyType, init: ResponseInit = {}) {
  server.use(http.get("*/usage", () => HttpResponse.json(body, init)));
}

async function refusal(asking: Promise<unknown>): Promise<ApiError> {
  const error: unknown = await asking.then(
    () => "an answer",
    (reason: unknown) => reason,
  );
  if (!(error instanceof ApiError))
    throw new Error(`not an ApiError: ${String(error)}`);
  return error;
}

describe("an answer", () => {
  test("comes with its body and its headers", async () => {
    answer({ usage: [] }, { headers: { "Usage-Plan": "text-rules/1" } });
    const { body, headers } = await ask();
    expect(body).toEqual({ usage: [] });
    expect(headers.get("Usage-Plan")).toBe("text-rules/1");
  });

  test("is asked for with the parameters that have a value, encoded", async () => {
    let asked = "";
    server.use(
      http.get("*/usage", ({ request }) => {
        asked = new URL(request.url).search;
        return HttpResponse.json({});
      }),
    );
    await ask({ plan: "text-rules/1", day: null });
    expect(asked).toBe("?plan=text-rules%2F1");
    await ask({ plan: null });
    expect(asked).toBe("");
  });

  test("that is no JSON has no body to read", async () => {
    server.use(http.get("*/usage", () => HttpResponse.text("<html>")));
    expect((await ask()).body).toBeNull();
  });
});

describe("a request that changes data", () => {
  afterEach(() => setCsrfToken(null));

  async function sent(options: Partial<RequestOptions>): Promise<Request> {
    const received: Request[] = [];
    server.use(
      http.all("*/keys", ({ request }) => {
        received.push(request.clone());
        return HttpResponse.json({});
      }),
    );
    await request("/keys", { signal: new AbortController().signal, ...options });
    const [first] = received;
    if (!first) throw new Error("nothing was sent");
    return first;
  }

  test("has its body as JSON, and the token of the session", async () => {
    setCsrfToken("the-token");
    const received = await sent({ method: "POST", body: { name: "shop" } });
    expect(await received.json()).toEqual({ name: "shop" });
    expect(received.headers.get("Content-Type")).toBe("application/json");
    expect(received.headers.get("X-CSRF-Token")).toBe("the-token");
  });

  test("has no token without a session", async () => {
    const received = await sent({ method: "DELETE" });
    expect(received.headers.get("X-CSRF-Token")).toBeNull();
    expect(received.body).toBeNull();
  });

  test("is no query: that has no token", async () => {
    setCsrfToken("the-token");
    expect((await sent({})).headers.get("X-CSRF-Token")).toBeNull();
  });
});

describe("a refusal", () => {
  test("says what the problem document says, and the request's id", async () => {
    answer(
      { title: "Usage is unavailable", detail: "Later.", code: "usage_unavailable" },
      { status: 503, headers: { "X-Request-ID": "abc", "Retry-After": "3" } },
    );
    const error = await refusal(ask());
    expect(error.problem).toEqual({
      title: "Usage is unavailable",
      detail: "Later.",
      code: "usage_unavailable",
      requestId: "abc",
    });
    expect([error.status, error.retryAfterMs, error.isTemporary]).toEqual([
      503,
      3000,
      true,
    ]);
  });

  test.each([
    ["a page of a proxy", "<h1>Bad gateway</h1>"],
    ["an array", []],
    ["fields of other types", { title: 5, detail: null, code: "" }],
  ])("that is %s still has words for a person", async (_, body) => {
    answer(body, { status: 502 });
    const { problem } = await refusal(ask());
    expect(problem).toEqual({
      title: "The service could not answer",
      detail: "It answered with status 502.",
      code: "http_502",
      requestId: null,
    });
  });

  test.each([
    ["999999", 999_999_000],
    ["0", 0],
    ["-1", null],
    ["Wed, 21 Oct 2026 07:28:00 GMT", null],
  ])("with Retry-After %s says how long to wait", async (header, waitMs) => {
    answer({}, { status: 429, headers: { "Retry-After": header } });
    expect((await refusal(ask())).retryAfterMs).toBe(waitMs);
  });

  test("that is the asker's fault is not temporary", async () => {
    answer({}, { status: 400 });
    expect((await refusal(ask())).isTemporary).toBe(false);
  });
});

describe("no answer", () => {
  test("is told as a service that cannot be reached", async () => {
    server.use(http.get("*/usage", () => HttpResponse.error()));
    const error = await refusal(ask());
    expect(error.problem.code).toBe("unreachable");
    expect(error.isTemporary).toBe(true);
  });

  test("in time is told as one that takes too long", async () => {
    const late = AbortSignal.abort(new DOMException("late", "TimeoutError"));
    vi.spyOn(AbortSignal, "timeout").mockReturnValue(late);
    answer({});
    expect((await refusal(ask())).problem.code).toBe("timeout");
  });

  test("because nobody waits any more stays an abort", async () => {
    answer({});
    const gone = new AbortController();
    gone.abort();
    await expect(ask({}, gone.signal)).rejects.toMatchObject({ name: "AbortError" });
  });
});

test("an answer that nobody understands is final, and keeps its request's id", () => {
  const headers = new Headers({ "X-Request-ID": "abc" });
  const error = unreadable({ body: null, headers }, "No list.");
  expect(error.problem).toMatchObject({ detail: "No list.", requestId: "abc" });
  expect(error.isTemporary).toBe(false);
});

test.each([
  [{}, true],
  [[], false],
  [null, false],
  ["x", false],
])("whether %o has fields is %o", (value, is) => expect(isRecord(value)).toBe(is));
