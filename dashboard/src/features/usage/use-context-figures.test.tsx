import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { renderHook, waitFor } from "@testing-library/react";
import { http, HttpResponse, type JsonBodyType } from "msw";
import { setupServer } from "msw/node";
import type { ReactNode } from "react";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Period } from "./period";
import { useContextFigures } from "./use-context-figures";
import { DEFAULT_VIEW, type View } from "./view/view";

const PERIOD: Period = {
  rows: [],
  unreadable: 0,
  plan: "text-rules/1",
  degraded: 0,
  id: "2024-05-29",
  isOpen: true,
};
const kept = (period: string, status: string, credits_used: number) => ({
  period,
  status,
  revision: 20,
  from: `${period}T01:00:00Z`,
  to: `${period}T02:00:00Z`,
  messages: 3,
  credits_used,
});
const PARTS: Record<string, JsonBodyType> = {
  periods: {
    periods: [kept("2024-05-29", "open", 12), kept("2024-04-29", "closed", 10)],
  },
  changes: {
    changes: [{ kind: "added" }, { kind: "added" }, { kind: "removed" }],
    credits_before: 10,
    credits_after: 12,
  },
  budgets: { budgets: [{ name: "team", credits: 5_000 }] },
  forecast: {
    expected: 120,
    low: 100,
    high: 140,
    confidence: 0.8,
    ends: "2024-06-28T00:00:00Z",
  },
};

const server = setupServer();
beforeAll(() => server.listen({ onUnhandledRequest: "error" }));
beforeEach(() => localStorage.clear());
afterEach(() => server.resetHandlers());
afterAll(() => server.close());

/** A service that has these parts; those of `broken` fail. */
function offer(names: string[], broken: string[] = []) {
  const links = Object.fromEntries(names.map((name) => [name, `/usage/${name}`]));
  server.use(
    http.get("*/", () => HttpResponse.json({ links })),
    ...names.map((name) =>
      http.get(`*/usage/${name}`, () =>
        broken.includes(name)
          ? HttpResponse.json({}, { status: 503 })
          : HttpResponse.json(PARTS[name] ?? null),
      ),
    ),
  );
}

async function figures(view: Partial<View> = {}) {
  const client = new QueryClient();
  const { result } = renderHook(
    () => useContextFigures(PERIOD, { ...DEFAULT_VIEW, ...view }),
    {
      wrapper: ({ children }: { children: ReactNode }) => (
        <QueryClientProvider client={client}>{children}</QueryClientProvider>
      ),
    },
  );
  await waitFor(() => expect(result.current.isReady).toBe(true), { timeout: 60_000 });
  return result.current;
}

test("all parts are read where the service has them", async () => {
  localStorage.setItem(
    "copilot-usage.last-visit",
    JSON.stringify({ period: "2024-05-29", revision: 17, at: 0 }),
  );
  offer(Object.keys(PARTS));
  const found = await figures();
  expect(found.previous).toMatchObject({ id: "2024-04-29", hundredths: 1_000 });
  expect(found.budgets).toEqual([{ name: "team", hundredths: 500_000 }]);
  expect(found.forecast).toMatchObject({ expected: 12_000, low: 10_000, high: 14_000 });
  expect([...(found.changes?.counts ?? [])]).toEqual([
    ["added", 2],
    ["removed", 1],
  ]);
  // The next visit is compared with the revision of the kept period.
  expect(localStorage.getItem("copilot-usage.last-visit")).toContain('"revision":20');
});

test("a part that is not offered is not requested, and left out", async () => {
  offer([]);
  const found = await figures();
  expect(found).toMatchObject({ periods: null, budgets: [], forecast: null });
});

test("a part that fails is left out, and the others are shown", async () => {
  offer(["budgets", "forecast"], ["forecast"]);
  const found = await figures();
  expect(found.budgets).toHaveLength(1);
  expect(found.forecast).toBeNull();
});

test("figures of another plan are not compared with budgets or the bill before", async () => {
  offer(Object.keys(PARTS));
  const found = await figures({ plan: "token-estimate" });
  expect(found).toMatchObject({ previous: null, budgets: [], forecast: null });
  expect(localStorage).toHaveLength(0);
});
