import { expect, test } from "vitest";

import { isSamePlan } from "./same-plan";

test.each([
  ["text-rules/1", "text-rules/1", true],
  ["text-rules/1", "text-rules", true],
  ["text-rules/1", "text-rules/2", false],
  ["text-rules/1", "text", false],
  ["text-rules/1", "", false],
])("whether %s is what an address calls %o is %o", (plan, asked, is) => {
  expect(isSamePlan(plan, asked)).toBe(is);
});
