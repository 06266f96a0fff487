import { describe, expect, test } from "vitest";

import { ApiError } from "@/api/client";

import { readPeriod } from "./read-period";

const read = (body: unknown, headers: Record<string, string> = {}) =>
  readPeriod({ body, headers: new Headers(headers) });

const GOOD = {
  message_id: 1000,
  timestamp: "2024-04-29T02:08:29.375Z",
  report_name: "Tenant Obligations Report",
  credits_used: 79,
};

describe("a row", () => {
  test("is what the service says, as the page shows it", () => {
    expect(read({ usage: [GOOD] }).rows).toEqual([
      {
        position: 0,
        messageId: "1000",
        instant: 1714356509375,
        timestamp: "29-04-2024 02:08",
        day: "2024-04-29",
        reportName: "Tenant Obligations Report",
        hundredths: 7900,
      },
    ]);
  });

  test("has no report's name where no report priced it", () => {
    const { rows, unreadable } = read({ usage: [{ ...GOOD, report_name: undefined }] });
    expect(rows[0]?.reportName).toBe("");
    expect(unreadable).toBe(0);
  });

  test("may occur twice: each keeps its own place", () => {
    const { rows } = read({ usage: [GOOD, GOOD] });
    expect(rows.map((row) => row.position)).toEqual([0, 1]);
  });

  test("shows a timestamp that cannot be read as it came, and is of no day", () => {
    const { rows } = read({ usage: [{ ...GOOD, timestamp: "<i>yesterday</i>" }] });
    expect(rows[0]).toMatchObject({ timestamp: "<i>yesterday</i>", day: null });
  });

  test("takes a text for an id", () => {
    const { rows, unreadable } = read({ usage: [{ ...GOOD, message_id: "m-1" }] });
    expect(rows[0]?.messageId).toBe("m-1");
    expect(unreadable).toBe(0);
  });

  test.each([
    ["null", null],
    ["a text", "row"],
    ["a list", [1]],
    ["an empty object", {}],
    ["a wrong id", { ...GOOD, message_id: { evil: 1 } }],
    ["a wrong timestamp", { ...GOOD, timestamp: 5 }],
    ["a wrong report's name", { ...GOOD, report_name: null }],
    ["a wrong price", { ...GOOD, credits_used: "79" }],
    ["an impossible price", { ...GOOD, credits_used: 1e300 }],
  ])("that is or has %s is shown and counted as unreadable", (_, item) => {
    const { rows, unreadable } = read({ usage: [item, GOOD] });
    expect(rows).toHaveLength(2);
    expect(unreadable).toBe(1);
    expect(rows[1]?.hundredths).toBe(7900);
  });
});

describe("a period", () => {
  test("has the plan and the number of degraded prices from the headers", () => {
    const headers = { "Usage-Plan": "text-rules/1", "Usage-Degraded": "3" };
    expect(read({ usage: [] }, headers)).toEqual({
      rows: [],
      unreadable: 0,
      plan: "text-rules/1",
      degraded: 3,
      id: null,
      isOpen: true,
    });
  });

  test.each([
    ["2024-04-29/..", "2024-04-29", true],
    ["2024-04-29-2/2024-05-28", "2024-04-29-2", false],
  ])("is named by the header %s", (header, id, isOpen) => {
    const headers = { "Usage-Period": header };
    expect(read({ usage: [] }, headers)).toMatchObject({ id, isOpen });
  });

  test.each(["-1", "many", "1.5", ""])("takes %o degraded prices for none", (count) => {
    expect(read({ usage: [] }, { "Usage-Degraded": count }).degraded).toBe(0);
  });

  test.each([null, [], {}, { usage: null }, { usage: { length: 1 } }])(
    "refuses %o, which has no rows",
    (body) => expect(() => read(body)).toThrow(ApiError),
  );
});
