import { describe, expect, test } from "vitest";

import {
  doubtfulPositions,
  isTemporary,
  notesOf,
  originOf,
  type LookedUp,
} from "./lookup";

const VEHICLE: LookedUp = { vin: "1XPWD40X2ED215307", make: "A", cached_result: false };
const withFields = (fields: Record<string, string>) =>
  ({ ...VEHICLE, fields }) as unknown as LookedUp;

describe("a vehicle", () => {
  test("without doubts has no notes", () => {
    expect(notesOf(VEHICLE)).toEqual([]);
    expect(doubtfulPositions(VEHICLE)).toEqual([]);
    expect(originOf(VEHICLE)).toBe("vPIC");
    expect(originOf({ ...VEHICLE, cached_result: true })).toBe("cache");
    expect(originOf({ ...VEHICLE, source: "offline" })).toBe("local copy of vPIC");
  });

  test("has its warnings and possible years in words", () => {
    const notes = notesOf({
      ...VEHICLE,
      warnings: ["check_digit", "code_99"],
      model_year_candidates: ["1984", "2014"],
    });
    expect(notes).toEqual([
      "The check digit at position 9 is wrong",
      "code 99",
      "The model year may be 1984 or 2014",
    ]);
  });

  test("has the positions marked that vPIC doubts", () => {
    expect(
      doubtfulPositions(withFields({ SuggestedVIN: "1X!WD40X!ED215307" })),
    ).toEqual([2, 8]);
    expect(doubtfulPositions({ ...VEHICLE, warnings: ["check_digit"] })).toEqual([8]);
    expect(notesOf(withFields({ PossibleValues: "(3:PW)(9:1)" }))).toEqual([
      "Possible at position 3: PW; 9: 1",
    ]);
  });
});

test("an error has words, and says whether it may pass", () => {
  const item: LookedUp = { vin: "X", error: "vehicle_unavailable" };
  expect(notesOf(item)).toEqual(["vPIC does not answer at the moment"]);
  expect(isTemporary(item)).toBe(true);
  expect(isTemporary({ vin: "X", error: "vin_not_decoded" })).toBe(false);
  expect(originOf(item)).toBe("");
});
