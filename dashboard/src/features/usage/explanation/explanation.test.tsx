import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { render, screen, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { delay, http, HttpResponse, type JsonBodyType } from "msw";
import { setupServer } from "msw/node";
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  it,
} from "vitest";

import { Explanation } from "./explanation";

const URL_PATH = /\/usage\/(?!plans)[^/?]+/;
const BY_TEXT = {
  message_id: 1001,
  timestamp: "2024-04-29T03:25:03.613Z",
  credits_used: 3.2,
  source: "text",
  plan: "text-rules/1",
  steps: [
    { step: "base", credits: 1, total: 1 },
    { step: "characters", credits: 4.2, total: 5.2 },
    { step: "length_penalty", credits: 0, total: 5.2 },
    { step: "unique_words", credits: -2, total: 3.2 },
  ],
};
const BY_REPORT = {
  ...BY_TEXT,
  credits_used: 79,
  source: "report",
  report_name: "Tenant Obligations Report",
  steps: [{ step: "report", credits: 79, total: 79 }],
};

const PLANS = [
  {
    plan: "text-rules/1",
    is_default: true,
    steps: [{ step: "base" }, { step: "characters", rate: 0.05, unit: "character" }],
  },
];

const asked: URL[] = [];
const server = setupServer();
server.events.on("request:start", ({ request }) => {
  const url = new URL(request.url);
  if (!url.pathname.endsWith("/plans")) asked.push(url);
});

beforeEach(() => {
  const answerPlans = () => HttpResponse.json({ plans: PLANS });
  server.use(http.get("*/usage/plans", answerPlans));
});
beforeAll(() => server.listen({ onUnhandledRequest: "error" }));
afterEach(() => {
  server.resetHandlers();
  asked.length = 0;
});
afterAll(() => server.close());

interface Props {
  messageId?: string;
  plan?: string | null;
  hundredths?: number | null;
}

function show({ messageId = "1001", plan = null, hundredths = 320 }: Props = {}) {
  const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
  return render(
    <QueryClientProvider client={client}>
      <Explanation
        messageId={messageId}
        plan={plan}
        period={null}
        hundredths={hundredths}
      />
    </QueryClientProvider>,
  );
}

function answer(body: JsonBodyType): void {
  server.use(http.get(URL_PATH, () => HttpResponse.json(body)));
}

async function stepRows(): Promise<(string | null)[][]> {
  const table = await screen.findByRole("table");
  return within(table)
    .getAllByRole("row")
    .slice(1)
    .map((row) => Array.from(row.children, (cell) => cell.textContent));
}

describe("Explanation", () => {
  it("says that it is being looked up", () => {
    server.use(http.get(URL_PATH, () => delay("infinite")));
    show();
    expect(screen.getByRole("status")).toHaveTextContent(/^Looking up/);
  });

  it("tells in words what each step of a text's price did, in their order", async () => {
    answer(BY_TEXT);
    show();
    await screen.findByText("84 × 0.05");
    expect(await stepRows()).toEqual([
      ["Starting price of every message", "+1.00", "1.00"],
      ["Length of the text, in characters 84 × 0.05", "+4.20", "5.20"],
      ["Surcharge for a long text", "did not apply", "5.20"],
      ["Discount where no word occurs twice", "−2.00", "3.20"],
    ]);
    const sentence = "No report priced this message, so its text was.";
    expect(screen.getByText(sentence)).toBeVisible();
  });

  it("names the report that priced a message, and what it costs", async () => {
    answer(BY_REPORT);
    show({ hundredths: 7_900 });
    expect(await stepRows()).toEqual([["Price of the report", "+79.00", "79.00"]]);
    expect(screen.getByText(/^This message asked for/)).toHaveTextContent(
      "This message asked for the Tenant Obligations Report, which costs 79.00 credits.",
    );
  });

  it("manages with a report that has no name", async () => {
    answer({ ...BY_REPORT, report_name: "" });
    show({ hundredths: 7_900 });
    expect(await screen.findByText(/asked for a report, which costs/)).toBeVisible();
  });

  it("shows markup in a report's name as text", async () => {
    answer({ ...BY_REPORT, report_name: "<img src=x>" });
    const { container } = show();
    expect(await screen.findByText("<img src=x>")).toBeVisible();
    expect(container.querySelector("img")).toBeNull();
  });

  it("says so where the steps are of another message with the same id", async () => {
    answer(BY_TEXT);
    show({ hundredths: 7_900 });
    expect(await screen.findByText(/^This id occurs more than once/)).toBeVisible();
  });

  it.each([
    ["is the same", 320],
    ["cannot be read", null],
  ])(
    "says nothing of other messages where the row's price %s",
    async (_, hundredths) => {
      answer(BY_TEXT);
      show({ hundredths });
      await screen.findByRole("table");
      expect(screen.queryByText(/^This id occurs/)).toBeNull();
    },
  );

  it("asks for the message under the plan that is shown", async () => {
    answer(BY_TEXT);
    show({ plan: "token-estimate/1" });
    await screen.findByRole("table");
    expect(asked.map((url) => url.pathname + url.search)).toEqual([
      "/usage/1001?plan=token-estimate%2F1",
    ]);
  });

  it.each(["", "..", "daily", "1/2", "1.5", "1e+21"])(
    "asks nothing about the id %j, which no message can have, and says so",
    (messageId) => {
      show({ messageId });
      expect(screen.getByText(/id cannot be read/)).toBeVisible();
      expect(asked).toEqual([]);
    },
  );

  it("tells why it failed and the request's id, and tries again when asked to", async () => {
    const user = userEvent.setup();
    const headers = { "X-Request-ID": "abc123" };
    const problem = { title: "No such message", detail: "It has gone.", code: "x" };
    server.use(
      http.get(URL_PATH, () => HttpResponse.json(problem, { status: 404, headers })),
    );
    show();
    const alert = await screen.findByRole("alert");
    expect(alert).toHaveTextContent("No such message. It has gone.");
    expect(alert).toHaveTextContent("Request id: abc123");
    answer(BY_TEXT);
    await user.click(screen.getByRole("button", { name: "Try again" }));
    expect(await stepRows()).toHaveLength(4);
    expect(document.activeElement).toContainElement(screen.getByRole("table"));
    expect(document.body).not.toHaveFocus();
    expect(screen.queryByRole("alert")).toBeNull();
  });

  it.each([
    ["no price", { ...BY_TEXT, credits_used: "3.2" }],
    ["nothing at all", null],
  ])("takes an answer with %s for a failure", async (_, body) => {
    answer(body);
    show();
    expect(await screen.findByRole("alert")).toHaveTextContent("could not be read");
  });

  it("leaves out steps that cannot be read, and shows the others", async () => {
    const broken = [null, { step: 1 }, { step: "base", credits: "1", total: 1 }];
    answer({ ...BY_TEXT, steps: [...broken, ...BY_TEXT.steps] });
    show();
    expect(await stepRows()).toHaveLength(4);
  });
});
