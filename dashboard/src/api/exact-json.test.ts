import { expect, test } from "vitest";

import { parseExactly } from "./exact-json";

test("a whole number that would be rounded becomes a text", async () => {
  const text = '{"message_id": 9007199254740993, "credits_used": 5.2, "next": 7}';
  expect(await parseExactly(text)).toEqual({
    message_id: "9007199254740993",
    credits_used: 5.2,
    next: 7,
  });
});

test("an exact number stays a number, however long it is", async () => {
  expect(await parseExactly("[9007199254740992000, 0.30000000000000004]")).toEqual([
    "9007199254740992000",
    0.30000000000000004,
  ]);
});

test.each(["{", "[12345678901234567890"])("%s is an error", async (text) => {
  await expect(parseExactly(text)).rejects.toThrow(Error);
});
