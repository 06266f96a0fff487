import { expect, test } from "vitest";

import { planName } from "./plans";

test.each([
  ["text-rules/1", "Text rules"],
  ["token-estimate/2", "Token estimate (2)"],
  ["text-rules", "Text rules"],
  ["", ""],
])("the plan %o is called %o", (plan, name) => expect(planName(plan)).toBe(name));
