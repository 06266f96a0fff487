import { expect, test } from "vitest";

import { tableToCsv, toField } from "./csv";

test("a table is CSV with a mark of its encoding", () => {
  expect(
    tableToCsv([
      ["vin", "make"],
      ["X", 'a "b", c'],
    ]),
  ).toBe('\uFEFFvin,make\r\nX,"a ""b"", c"\r\n');
});

test.each([
  ["=1+1", "'=1+1"],
  ["@x", "'@x"],
  ["-5", "-5"],
  ["＝x", "'＝x"],
])("a field %o is text to a spreadsheet", (value, field) => {
  expect(toField(value)).toBe(field);
});
