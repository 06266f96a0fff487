import { File } from "node:buffer";

import { describe, expect, test } from "vitest";

import { columnOfVins, FileError, MAX_FILE_BYTES, readFile } from "./read-file";

const ONE = "1XPWD40X1ED215307";
const TWO = "1XKWDB0X57J211825";
const file = (...parts: (string | Uint8Array)[]) => new File(parts, "vins.csv");

describe("the column of VINs", () => {
  test.each([
    ["a line each", `${ONE}\r\n${TWO}\n`, [ONE, TWO, ""]],
    ["a header without other columns", `VIN\n${ONE}`, [ONE]],
    ["the column that is named VIN", `id;vin\nA1234567890B;${ONE}`, [ONE]],
    ["decimal commas", `VIN;price\n${ONE};1,5\n${TWO};2,5`, [ONE, TWO]],
    ["a line for Excel", `sep=;\nVIN;x\n${ONE};1`, [ONE]],
    ["a value of two lines", `VIN,note\n${ONE},"a\nb, c"`, [ONE]],
    [
      "longer values before",
      `No;Chassis\nORD12345678;${ONE}\nORD12345679;${TWO}`,
      ["Chassis", ONE, TWO],
    ],
    ["where the first VIN is", `7,${ONE},x\n8,${TWO},y`, [ONE, TWO]],
    ["quoted values with a delimiter", `"a, b",${ONE}\n"c",${TWO}`, [ONE, TWO]],
    ["tabs", `x\t${ONE}`, [ONE]],
    ["no VIN at all", "a,b\nc", ["a,b", "c"]],
  ])("is found with %s", (_, text, vins) => expect(columnOfVins(text)).toEqual(vins));
});

describe("a file", () => {
  test("of text is read", async () => {
    expect(await readFile(file("\uFEFFvin\n", ONE))).toEqual([ONE]);
  });

  test("of Excel is read in its encodings", async () => {
    const utf16 = Buffer.from(`\uFEFFL\u00E4nge\tVIN\r\n5\t${ONE}`, "utf16le");
    const windows = Buffer.from(`L\u00E4nge;VIN\r\n5;${ONE}`, "latin1");
    expect(await readFile(file(utf16))).toEqual([ONE]);
    expect(await readFile(file(windows))).toEqual([ONE]);
  });

  test.each([
    ["a spreadsheet", file(new Uint8Array([0x50, 0x4b, 3, 4, 0, 0])), "no text"],
    ["nothing", file("vin\n\n"), "no VIN"],
    ["too much", file("x".repeat(MAX_FILE_BYTES + 1)), "larger than 1 MiB"],
  ])("with %s is refused with a sentence", async (_, given, sentence) => {
    const error: unknown = await readFile(given).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(FileError);
    expect(String(error)).toContain(sentence);
  });
});
