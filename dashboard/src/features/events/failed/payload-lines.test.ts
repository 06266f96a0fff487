import { describe, expect, test } from "vitest";

import { parseExact } from "./exact-json";
import { aroundErrors, toLines } from "./payload-lines";

const errorAt = (path: string) => ({ code: "schema", path, message: `at ${path}` });
const markedTexts = (event: unknown, ...paths: string[]) =>
  toLines(event, paths.map(errorAt))
    .filter((line) => line.errors.length > 0)
    .map((line) => line.text);

describe("the lines of an event", () => {
  test("are its JSON, indented", () => {
    const event = { id: "a", data: { tags: ["x", 1], none: {} } };
    const text = toLines(event, [])
      .map((line) => "  ".repeat(line.depth) + line.text)
      .join("\n");
    expect(text).toBe(JSON.stringify(event, null, 2));
  });

  test("have an error at the value that it is about", () => {
    const event = { data: { "a/b": { "c~d": [1, 2] } } };
    expect(markedTexts(event, "/data/a~1b/c~0d/1")).toEqual(["2"]);
    expect(markedTexts(event, "/data")).toEqual(['"data": {']);
  });

  test("have an error about a missing value where it would be", () => {
    expect(markedTexts({ data: { x: 1 } }, "/data/host")).toEqual(['"data": {']);
    expect(markedTexts({ x: 1 }, "/session_id", "")).toEqual(["{"]);
    expect(markedTexts("no object", "/data")).toEqual(['"no object"']);
  });
});

test("characters that would reorder a line are shown as escapes", () => {
  const [, line] = toLines({ "a\u2066": "b\u202Ec" }, []);
  expect(line?.text).toBe('"a\\u2066": "b\\u202ec"');
});

test("a long event is shown around its errors, with gaps between", () => {
  const lines = toLines({ list: Array.from({ length: 50 }, (_, at) => at) }, [
    errorAt("/list/10"),
    errorAt("/list/40"),
  ]);
  const texts = aroundErrors(lines, 1).map((line) => line?.text ?? null);
  expect(texts).toEqual([null, "9,", "10,", "11,", null, "39,", "40,", "41,", null]);
});

test.each(["9007199254740993", "1e400", "1.0", "-0"])(
  "the number %s is shown as it was sent",
  (number) => {
    const hasSource = JSON.parse("1", (_key, _value, context?: { source?: string }) =>
      Boolean(context?.source),
    ) as boolean;
    // Node.js before 21 does not tell the text of a number.
    if (!hasSource) return;
    const [, line] = toLines(parseExact(`{"id": ${number}}`), []);
    expect(line?.text).toBe(`"id": ${number}`);
  },
);
