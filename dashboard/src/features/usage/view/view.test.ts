import { describe, expect, test } from "vitest";

import { DEFAULT_VIEW, formatView, LONGEST_TEXT, parseView, type View } from "./view";

const FULL: View = {
  sorting: [
    { column: "credits_used", direction: "desc" },
    { column: "report_name", direction: "asc" },
  ],
  range: { from: "2024-04-29", to: "2024-05-02" },
  report: "Wills & Trusts + 50%; <b>=?#",
  search: "naïve ‮租约",
  plan: "token-estimate/1",
  period: "2024-04-29-2",
  zone: "America/Argentina/Ushuaia",
  step: "week",
  isEmbedded: true,
};

describe("an address", () => {
  test("says the default view with nothing", () => {
    expect(formatView(DEFAULT_VIEW)).toBe("");
    expect(parseView("")).toEqual(DEFAULT_VIEW);
  });

  test("says the sorting in the form that the service takes too", () => {
    const { sorting } = FULL;
    expect(formatView({ ...DEFAULT_VIEW, sorting })).toBe(
      "?sorting=credits_used:desc;report_name:asc",
    );
  });

  test("brings back every part of the view that wrote it", () => {
    expect(parseView(formatView(FULL))).toEqual(FULL);
  });

  test("tells the messages of no report from those of all reports", () => {
    const ofNone = { ...DEFAULT_VIEW, report: "" };
    expect(formatView(ofNone)).toBe("?report=");
    expect(parseView("?report=")).toEqual(ofNone);
  });

  test("takes a lone surrogate, which cannot be encoded", () => {
    const query = formatView({ ...DEFAULT_VIEW, search: "a\uD800" });
    expect(parseView(query).search).toBe("a\uFFFD");
  });

  test("stays short enough for a server's first line, whatever is typed", () => {
    const long = "租".repeat(10_000);
    const query = formatView({ ...FULL, report: long, search: long });
    expect(query.length).toBeLessThan(8_000);
    expect(parseView(query).search).toBe("租".repeat(LONGEST_TEXT));
    const longest = "租".repeat(LONGEST_TEXT);
    expect(
      formatView({ ...FULL, report: longest, search: longest }).length,
    ).toBeLessThan(8_000);
  });

  test("never shortens a report's name to another one's", () => {
    const name = "x".repeat(LONGEST_TEXT + 1);
    expect(formatView({ ...DEFAULT_VIEW, report: name })).toBe("");
    expect(parseView(`?report=${name}`).report).toBeNull();
  });
});

describe("an untrusted address", () => {
  test.each([
    ["an unknown column", "sorting=secret:asc", []],
    ["a column without a direction", "sorting=credits_used", []],
    ["too many parts", "sorting=credits_used:asc:desc", []],
    ["a name that every object has", "sorting=__proto__:asc;constructor:asc", []],
    [
      "another direction, as ascending",
      "sorting=credits_used:UP",
      [{ column: "credits_used", direction: "asc" }],
    ],
    [
      "a column twice, the first of them",
      "sorting=credits_used:desc;credits_used:asc",
      [{ column: "credits_used", direction: "desc" }],
    ],
    [
      "a bad pair beside a good one",
      "sorting=;:;report_name:desc;x",
      [{ column: "report_name", direction: "desc" }],
    ],
  ])("sorts sensibly with %s", (_, query, sorting) => {
    expect(parseView(`?${query}`).sorting).toEqual(sorting);
  });

  test.each(["2024-02-30", "29-04-2024", "", "null"])(
    "has no day %o, which there is not",
    (day) => expect(parseView(`?day=${day}`).range).toBeNull(),
  );

  test.each(["from=2024-04-29", "to=2024-04-29", "from=2024-04-29&to=2024-04-28"])(
    "has no range %o",
    (query) => expect(parseView(`?${query}`).range).toBeNull(),
  );

  test.each(["tz=Mars/Olympus", "by=year", "period=latest", "period=../x"])(
    "is as if it had not %o",
    (query) => expect(parseView(`?${query}`)).toEqual(DEFAULT_VIEW),
  );

  test.each(["NONSENSE", "../../x", "a/b", "a".repeat(41), ""])(
    "does not ask the service for a plan %o",
    (plan) => expect(parseView(`?plan=${plan}`).plan).toBeNull(),
  );

  test("survives broken percent signs, zero bytes and parameters given twice", () => {
    const view = parseView("?search=%E0%A4%A&report=%00&search=other&&=&x");
    expect(view.report).toBe("\0");
    expect(view.search).not.toBe("other");
  });
});
