import { expect, test } from "vitest";

import { ApiError } from "./client";
import { nextCursor, toPage } from "./lists";

const headers = (link?: string) =>
  new Headers(link === undefined ? {} : { Link: link });

test("a page has its items, and the cursor of the next one", () => {
  const link = '</vehicles?limit=1&cursor=abc%3D>; rel="next"';
  const answer = { body: { vehicles: [{ vin: "X" }] }, headers: headers(link) };
  expect(toPage(answer, "vehicles")).toEqual({ items: [{ vin: "X" }], next: "abc=" });
});

test.each([undefined, '</x?cursor=a>; rel="prev"', "nonsense"])(
  "a link %o leads to no next page",
  (link) => expect(nextCursor(headers(link))).toBeNull(),
);

test("a link may have a host and a prefix", () => {
  const link = '<https://a.test/copilot/events?cursor=c1>; rel="next"';
  expect(nextCursor(headers(link))).toBe("c1");
});

test.each([null, {}, { vehicles: "x" }, { vehicles: [1] }])("%o is no list", (body) =>
  expect(() => toPage({ body, headers: headers() }, "vehicles")).toThrow(ApiError),
);
