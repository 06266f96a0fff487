import { describe, expect, test } from "vitest";

import { readVins } from "./vin";

const VIN = "1XPWD40X1ED215307";
const only = (text: string) => readVins([text]).entries[0];

describe("pasted lines", () => {
  test("are trimmed, raised, and counted once", () => {
    const { entries, duplicates } = readVins([
      `\uFEFF ${VIN} `,
      "",
      VIN.toLowerCase(),
      "\t",
    ]);
    expect(entries).toEqual([{ line: 1, vin: VIN, error: null, wrong: [] }]);
    expect(duplicates).toBe(1);
  });

  test.each([
    ["1XPWD40X1ED21530O", [16], "the letter O at position 17; perhaps it is 0"],
    ["1XPWD40X1ED-15307", [11], "the character - at position 12"],
    ["1XPWD40X 1ED21530", [8], "a space at position 9"],
    ["ÉXPWD40X1ED215307", [0], "the character É at position 1"],
    [`${VIN}12`, [17, 18], "19 characters; a VIN has 17"],
    ["1XPWD", [], "5 characters; a VIN has 17"],
    ["Fahrgestellnummer", [], "no digit"],
    ["1*PWD40X1ED215307", [1], "the first three characters must be known"],
  ])("of %o say what is wrong and where", (text, wrong, error) => {
    expect(only(text)).toMatchObject({ wrong });
    expect(only(text)?.error).toContain(error);
  });

  test.each(["5UXWX7C5*BA", "1XPWD40X*ED215307"])(
    "may be a partial VIN: %s",
    (text) => {
      expect(only(text)?.error).toBeNull();
    },
  );
});
