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
    ["where the first VIN is", `7,${ONE},x\n8,${TWO},y`, [ONE, TWO]],
    ["quoted values with a delimiter", `"a, b",${ONE}\n"c",${TWO}`, [ONE, TWO]],
    ["tabs", `x\t${ONE}`, [ONE]],
  ])("is found with %s", (_, text, vins) => expect(columnOfVins(text)).toEqual(vins));
});

describe("a file", () => {
  test("of text is read", async () => {
    expect(await readFile(file("\uFEFFvin\n", ONE))).toEqual([ONE]);
  });

  test.each([
    ["a spreadsheet", file(new Uint8Array([0x50, 0x4b, 3, 4, 0, 0])), "no text"],
    ["another encoding", file(new Uint8Array([0xff, 0xfe, 0x31, 0x00])), "no text"],
    ["nothing", file("vin\n\n"), "no VIN"],
    ["too much", file("x".repeat(MAX_FILE_BYTES + 1)), "larger than 1 MiB"],
  ])("with %s is refused with a sentence", async (_, given, sentence) => {
    const error: unknown = await readFile(given).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(FileError);
    expect(String(error)).toContain(sentence);
  });
});
