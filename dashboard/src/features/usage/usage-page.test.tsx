// What the whole page shows in each of its states, against a service that is played.
import { QueryClientProvider } from "@tanstack/react-query";
import { render, screen, waitFor, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { http, HttpResponse, type JsonBodyType } from "msw";
import { setupServer } from "msw/node";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";

import { createQueryClient } from "@/api/queries";

import { UsagePage } from "./usage-page";

const ITEMS = [
  { message_id: 1, timestamp: "2024-04-29T02:08:29.375Z", credits_used: 5.2 },
  {
    message_id: 2,
    timestamp: "2024-04-30T03:25:03.613Z",
    report_name: "Lease Report",
    credits_used: 79,
  },
];

const server = setupServer();
beforeAll(() => server.listen({ onUnhandledRequest: "error" }));
beforeEach(() => {
  // jsdom has none; the chart observes its size.
  vi.stubGlobal(
    "ResizeObserver",
    class {
      observe() {}
      unobserve() {}
      disconnect() {}
    },
  );
  server.use(
    http.get("*/", () => HttpResponse.json({ links: {} })),
    http.get("*/usage/plans", () => HttpResponse.json({ plans: [] })),
    http.get("*/usage/reports", () => HttpResponse.json({ reports: [], text: {} })),
  );
});
afterEach(() => server.resetHandlers());
afterAll(() => server.close());

function answerWith(usage: JsonBodyType, headers: Record<string, string> = {}) {
  server.use(
    http.get("*/usage", () =>
      HttpResponse.json(
        { usage },
        { headers: { "Usage-Plan": "text-rules/1", ...headers } },
      ),
    ),
  );
}

function refuseWith(status: number, code: string, title: string) {
  server.use(
    http.get("*/usage", () =>
      HttpResponse.json(
        { title, detail: "More about it.", code, status },
        { status, headers: { "X-Request-ID": "the-request", "Retry-After": "0" } },
      ),
    ),
  );
}

function show() {
  render(
    <QueryClientProvider client={createQueryClient()}>
      <UsagePage />
    </QueryClientProvider>,
  );
}

test("says that it loads until the first answer is there", async () => {
  answerWith(ITEMS);
  show();

  expect(screen.getByRole("status")).toHaveTextContent("Loading usage…");
  expect(await screen.findByRole("heading", { name: "How much" })).toBeInTheDocument();
  expect(screen.queryByText("Loading usage…")).not.toBeInTheDocument();
});

test("shows the total, the plan and every message", async () => {
  answerWith(ITEMS);
  show();

  const table = await screen.findByRole("table", { name: /^Messages/ });
  expect(within(table).getAllByRole("button", { name: /^Message/ })).toHaveLength(2);
  expect(within(table).getByText("Lease Report")).toBeInTheDocument();
  expect(screen.getByText("Text rules plan")).toBeInTheDocument();
  expect(screen.getAllByText("84.20").length).toBeGreaterThan(0);
});

test("says that an empty period has no messages", async () => {
  answerWith([]);
  show();

  expect(
    await screen.findByText("No messages yet in this period."),
  ).toBeInTheDocument();
  expect(screen.queryByRole("table")).not.toBeInTheDocument();
});

test("a first stale answer is refreshed soon, without a warning", async () => {
  answerWith(ITEMS, { "Cache-Status": "copilot-usage; hit; detail=stale", Age: "75" });
  show();

  expect(await screen.findByText(/^Updated/)).toHaveTextContent("1 minute ago");
  answerWith(ITEMS);
  await waitFor(
    () => expect(screen.getByText(/^Updated/)).toHaveTextContent("just now"),
    {
      timeout: 60_000,
    },
  );
  expect(screen.queryByText(/may be out of date/)).not.toBeInTheDocument();
});

test("shows a second stale answer, prices without their report, and what it cannot read", async () => {
  answerWith([...ITEMS, { message_id: 3, credits_used: "much" }], {
    "Cache-Status": "copilot-usage; hit; ttl=-90; detail=stale",
    "Usage-Degraded": "2",
    Age: "150",
  });
  show();

  const notice = await screen.findByText(/may be out of date/, {}, { timeout: 60_000 });
  expect(notice).toHaveTextContent("2 minutes ago");
  expect(screen.getByText(/priced by text/)).toHaveTextContent("2 messages");
  expect(screen.getByText(/could not be read/)).toHaveTextContent("1 message");
});

test("shows an error with its request id, and the usage when tried again", async () => {
  refuseWith(400, "request_refused", "The request cannot be handled");
  show();

  const alert = await screen.findByRole("alert");
  expect(alert).toHaveTextContent("The request cannot be handled");
  expect(alert).toHaveTextContent("the-request");
  answerWith(ITEMS);
  await userEvent.click(within(alert).getByRole("button", { name: "Try again" }));
  expect(await screen.findByRole("heading", { name: "How much" })).toBeInTheDocument();
});

test("says that it tries on while the service is away for a moment", async () => {
  refuseWith(503, "messages_unavailable", "The period's messages are unavailable");
  show();

  expect(await screen.findByText(/Still trying/)).toBeInTheDocument();
  answerWith(ITEMS);
  expect(await screen.findByRole("heading", { name: "How much" })).toBeVisible();
});

test("says what to do where the figures need a key", async () => {
  refuseWith(401, "unauthorized", "An API key is required");
  show();

  expect(await screen.findByText(/with a key that has the scope/)).toBeVisible();
});

test("leads back from a plan of the address that the service does not know", async () => {
  history.replaceState(null, "", "/dashboard/?plan=golden");
  refuseWith(400, "unknown_plan", "There is no such plan");
  show();

  const back = await screen.findByRole("button", { name: "Show your plan" });
  answerWith(ITEMS);
  await userEvent.click(back);
  expect(await screen.findByRole("heading", { name: "How much" })).toBeInTheDocument();
  expect(location.search).toBe("");
});

test("shows all messages again where no message matches the filters", async () => {
  history.replaceState(null, "", "/dashboard/?search=nothing+like+it");
  answerWith(ITEMS);
  show();

  await userEvent.click(
    await screen.findByRole("button", { name: "Show all messages" }),
  );
  expect(await screen.findByRole("table", { name: /^Messages/ })).toBeInTheDocument();
  expect(location.search).toBe("");
});
