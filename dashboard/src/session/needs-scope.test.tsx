// Signing in, against a service that is played.
import { QueryClientProvider } from "@tanstack/react-query";
import { render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { http, HttpResponse } from "msw";
import { setupServer } from "msw/node";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";

import { ApiError } from "@/api/client";
import { csrfToken, setCsrfToken } from "@/api/csrf";
import { createQueryClient } from "@/api/queries";

import { NeedsScope } from "./needs-scope";
import { useSession, useSessionEnd } from "./session";
import { SessionFacts } from "./session-facts";

const FACTS = {
  name: "shop",
  scopes: ["events:read-all"],
  expires_at: "2999-01-01T00:00:00Z",
  csrf_token: "the-token",
};
const server = setupServer();
beforeAll(() => server.listen({ onUnhandledRequest: "error" }));
afterEach(() => {
  server.resetHandlers();
  setCsrfToken(null);
});
afterAll(() => server.close());

/** Play a browser that keeps the sign-in, or does not. */
function play({ isSignedIn = false, isKept = true, facts = FACTS } = {}) {
  let hasSession = isSignedIn;
  const refusal = () => HttpResponse.json({ code: "unauthorized" }, { status: 401 });
  const keys: unknown[] = [];
  server.use(
    http.get("*/session", () => (hasSession ? HttpResponse.json(facts) : refusal())),
    http.post("*/session", async ({ request }) => {
      const { key } = (await request.json()) as { key: string };
      keys.push(key);
      if (key !== "right") return refusal();
      hasSession = isKept;
      return HttpResponse.json(facts);
    }),
    http.delete("*/session", () => {
      hasSession = false;
      return new HttpResponse(null, { status: 204 });
    }),
  );
  const become = (other: typeof FACTS) => (facts = other);
  return { keys, become, end: () => (hasSession = false) };
}

function Shown({ scope }: { scope: string }) {
  const { data } = useSession();
  useSessionEnd(data?.session ?? null);
  return (
    <>
      <SessionFacts />
      <NeedsScope scope={scope}>{() => <p>The content</p>}</NeedsScope>
    </>
  );
}

function show(scope = "events:read") {
  const client = createQueryClient();
  render(
    <QueryClientProvider client={client}>
      <Shown scope={scope} />
    </QueryClientProvider>,
  );
  return client;
}

async function signIn(key: string) {
  await userEvent.type(await screen.findByLabelText("Key"), key);
  await userEvent.click(screen.getByRole("button", { name: "Sign in" }));
}

test("a key opens the content, and is sent once in the body", async () => {
  const { keys } = play();
  show();
  await signIn("  right ");
  expect(await screen.findByText("The content")).toBeInTheDocument();
  expect(keys).toEqual(["right"]);
  expect(csrfToken()).toBe("the-token");
  expect(localStorage).toHaveLength(0);
  expect(location.href).not.toContain("right");
});

test("the end of the session has its day and names its zone", async () => {
  play({ isSignedIn: true });
  show();
  expect(await screen.findByText(/^Signed in as/)).toHaveTextContent(
    "Signed in as shop until 01-01-2999 00:00 UTC",
  );
});

test("a wrong key is said to be wrong, and can be corrected", async () => {
  play();
  show();
  await signIn("wrong");
  expect(await screen.findByText(/^This key is not valid/)).toBeInTheDocument();
  await userEvent.clear(screen.getByLabelText("Key"));
  await signIn("right");
  expect(await screen.findByText("The content")).toBeInTheDocument();
});

test("a browser that keeps no cookie is told so, instead of asking for ever", async () => {
  play({ isKept: false });
  show();
  await signIn("right");
  expect(await screen.findByText(/did not keep the sign-in/)).toBeInTheDocument();
});

test("a key without the scope is told which one it lacks", async () => {
  play({ isSignedIn: true });
  show("admin");
  expect(await screen.findByText("Your key does not permit this")).toBeInTheDocument();
  expect(screen.getByText(/lacks the scope/)).toHaveTextContent("admin");
});

test("signing out takes the content and the token away", async () => {
  play({ isSignedIn: true });
  show();
  await userEvent.click(await screen.findByRole("button", { name: "Sign out" }));
  expect(await screen.findByText("You are signed out.")).toBeInTheDocument();
  expect(csrfToken()).toBeNull();
});

test("a session that has ended asks to sign in again", async () => {
  const played = play({ isSignedIn: true });
  const client = show();
  expect(await screen.findByText("The content")).toBeInTheDocument();
  played.end();
  await client.invalidateQueries({ queryKey: ["session"] });
  expect(await screen.findByText(/^Your session has ended/)).toBeInTheDocument();
});

test("a session of another tab replaces what the former one has read", async () => {
  const played = play({ isSignedIn: true });
  const client = show();
  expect(await screen.findByText("The content")).toBeInTheDocument();
  client.setQueryData(["failed"], "of the shop");
  played.become({ ...FACTS, name: "board", csrf_token: "another" });
  const code = "csrf_token_missing";
  const refused = new ApiError({ title: "", detail: "", code, requestId: null }, 403);
  await client
    .getMutationCache()
    .build(client, { mutationFn: () => Promise.reject(refused) })
    .execute(undefined)
    .catch(() => null);
  expect(await screen.findByText("board")).toBeInTheDocument();
  expect(client.getQueryData(["failed"])).toBeUndefined();
});

test("a service without keys says so", async () => {
  server.use(
    http.get("*/session", () =>
      HttpResponse.json({ code: "not_found" }, { status: 404 }),
    ),
  );
  show();
  expect(await screen.findByText(/This service has no keys/)).toBeInTheDocument();
});
