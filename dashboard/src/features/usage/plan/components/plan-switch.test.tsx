import { QueryClientProvider } from "@tanstack/react-query";
import { render, screen, waitFor } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { http, HttpResponse, type JsonBodyType } from "msw";
import { setupServer } from "msw/node";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";

import { createQueryClient } from "@/api/queries";

import { PlanSwitch } from "./plan-switch";

const PLANS = {
  plans: [
    { plan: "text-rules/1", is_default: true },
    { plan: "token-estimate/1", is_default: false },
  ],
};
/** 2,442.00 credits, and 123.40 more. */
const TOTALS: Record<string, JsonBodyType> = {
  "text-rules/1": {
    reports: [{ report_name: "A", messages: 2, credits_used: 2_000.1 }],
    text: { messages: 3, credits_used: 441.9 },
  },
  "token-estimate/1": { reports: [], text: { messages: 5, credits_used: 2_565.4 } },
};

const server = setupServer();
beforeAll(() => server.listen({ onUnhandledRequest: "error" }));
afterEach(() => server.resetHandlers());
afterAll(() => server.close());

function serve(plans: JsonBodyType, totals: Record<string, JsonBodyType> = TOTALS) {
  server.use(
    http.get("*/usage/plans", () => HttpResponse.json(plans)),
    http.get("*/usage/reports", ({ request }) => {
      const plan = new URL(request.url).searchParams.get("plan") ?? "";
      const total = totals[plan];
      if (total === undefined)
        return HttpResponse.json({ title: "No" }, { status: 400 });
      return HttpResponse.json(total);
    }),
  );
}

function show(shown: string | null = null) {
  const onChoose = vi.fn();
  const { container } = render(
    <QueryClientProvider client={createQueryClient()}>
      <PlanSwitch shown={shown} onChoose={onChoose} />
    </QueryClientProvider>,
  );
  return { onChoose, container };
}

describe("the plans", () => {
  test("have human names, their totals, and the difference to the shown one", async () => {
    serve(PLANS);
    show();
    expect(
      await screen.findByRole("radio", {
        name: "Token estimate 2,565.40 credits +123.40 credits",
      }),
    ).not.toBeChecked();
    expect(
      screen.getByRole("radio", { name: "Text rules 2,442.00 credits" }),
    ).toBeChecked();
    expect(screen.getByRole("group", { name: "Pricing plan" })).toBeVisible();
  });

  test("compare with the one that is shown, whichever it is", async () => {
    serve(PLANS);
    show("token-estimate/1");
    expect(
      await screen.findByRole("radio", {
        name: "Text rules 2,442.00 credits −123.40 credits",
      }),
    ).not.toBeChecked();
  });

  test("may be named in the address without a version", async () => {
    serve(PLANS);
    show("token-estimate");
    expect(await screen.findByRole("radio", { name: /^Token estimate/ })).toBeChecked();
  });

  test("are waited for quietly", () => {
    serve(PLANS);
    const { container } = show();
    expect(container.querySelector("[aria-busy=true]")).toBeVisible();
    expect(screen.queryByRole("radio")).toBeNull();
  });
});

describe("choosing", () => {
  test("another plan names it", async () => {
    serve(PLANS);
    const { onChoose } = show();
    await userEvent.click(
      await screen.findByRole("radio", { name: /^Token estimate/ }),
    );
    expect(onChoose).toHaveBeenCalledExactlyOnceWith("token-estimate/1");
  });

  test("the default one names none", async () => {
    serve(PLANS);
    const { onChoose } = show("token-estimate/1");
    await userEvent.click(await screen.findByRole("radio", { name: /^Text rules/ }));
    expect(onChoose).toHaveBeenCalledExactlyOnceWith(null);
  });

  test("is not offered where there is one plan", async () => {
    serve({ plans: PLANS.plans.slice(0, 1) });
    const { container } = show();
    await waitFor(() => expect(container).toBeEmptyDOMElement());
  });

  test("leads away from a plan that there is not", async () => {
    serve(PLANS);
    const { onChoose } = show("free-of-charge");
    const radios = await screen.findAllByRole<HTMLInputElement>("radio");
    expect(radios.filter((radio) => radio.checked)).toEqual([]);
    await userEvent.click(screen.getByRole("radio", { name: /^Text rules/ }));
    expect(onChoose).toHaveBeenCalledExactlyOnceWith(null);
  });
});

describe("when something is missing", () => {
  test("a total that cannot be had says so, and no difference is made up", async () => {
    serve(PLANS, { "text-rules/1": TOTALS["text-rules/1"] ?? null });
    show();
    expect(
      await screen.findByRole("radio", { name: "Token estimate Total not available" }),
    ).toBeEnabled();
  });

  test.each([
    ["no sums", {}],
    ["a broken sum", { reports: [{ credits_used: "9" }], text: { credits_used: 1 } }],
    ["half of the sums", { reports: [{ credits_used: 9 }] }],
  ])("%s are no total", async (_, body) => {
    serve(PLANS, { ...TOTALS, "token-estimate/1": body });
    show();
    expect(
      await screen.findByRole("radio", { name: "Token estimate Total not available" }),
    ).toBeEnabled();
  });

  test("plans that cannot be had are asked for again by a person", async () => {
    serve({ plans: null });
    show();
    const again = await screen.findByRole("button", { name: "Try again" });
    serve(PLANS);
    await userEvent.click(again);
    expect(await screen.findByRole("radio", { name: /^Text rules/ })).toBeChecked();
  });

  test("what is no plan among the plans is left out", async () => {
    serve({ plans: [null, { plan: 5, is_default: true }, ...PLANS.plans] });
    show();
    expect(await screen.findAllByRole("radio")).toHaveLength(2);
  });
});
