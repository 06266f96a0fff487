import { expect, test } from "vitest";

import { formatOffset } from "./session";

const START = "2024-05-01 09:00:00";

test.each([
  ["2024-05-01T09:00:05Z", "+0:05"],
  ["2024-05-01T10:02:03Z", "+1:02:03"],
  ["2024-05-05T19:51:49Z", "+4 d 10:51"],
  ["2024-05-01T08:00:00Z", "+0:00"],
  ["soon", ""],
])("from the start to %s it is %o", (timestamp, offset) => {
  expect(formatOffset(START, timestamp)).toBe(offset);
});
