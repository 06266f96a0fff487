// VINs as people paste them, checked before they are sent.
//
// The service checks them again. These rules only say earlier what is wrong and where:
// service/vehicles/vin.py has the whole of them.

export const LENGTH = 17;
export const MAX_VINS = 500;
const CONFUSABLE = new Map([
  ["I", "1"],
  ["O", "0"],
  ["Q", "0 or 9"],
]);
const ALLOWED = /[A-HJ-NPR-Z0-9]/;
/** What files and scanners leave around a VIN. */
const AROUND = /^[\s\uFEFF]+|[\s\uFEFF]+$/g;

export interface Entry {
  /** The number of its line, from 1. */
  line: number;
  /** In capitals, without white space around it. */
  vin: string;
  /** What is wrong with it; null if it can be sent. */
  error: string | null;
  /** Positions of wrong characters, from 0. */
  wrong: number[];
}

export interface Entries {
  /** Each VIN once, in the order of its first line. */
  entries: Entry[];
  duplicates: number;
}

/** Return the VINs of lines; empty lines do not count. */
export function readVins(lines: readonly string[]): Entries {
  const byVin = new Map<string, Entry>();
  let duplicates = 0;
  lines.forEach((text, at) => {
    const vin = text.replace(AROUND, "").toUpperCase();
    if (vin === "") return;
    if (byVin.has(vin)) duplicates += 1;
    else byVin.set(vin, { line: at + 1, vin, ...defectOf(vin) });
  });
  return { entries: [...byVin.values()], duplicates };
}

/** Return whether a text is a VIN that can be sent. */
export function isVin(text: string): boolean {
  return readVins([text]).entries[0]?.error === null;
}

function defectOf(vin: string): { error: string | null; wrong: number[] } {
  const isPartial = vin.includes("*");
  const characters = Array.from(vin);
  const wrong = characters.flatMap((character, at) =>
    ALLOWED.test(character) || (character === "*" && at >= 3) ? [] : [at],
  );
  const [first] = wrong;
  if (first !== undefined)
    return { error: describe(characters[first] ?? "", first), wrong };
  if (characters.length > LENGTH) {
    const tooMany = characters.map((_, at) => at).slice(LENGTH);
    return {
      error: `${characters.length} characters; a VIN has ${LENGTH}`,
      wrong: tooMany,
    };
  }
  if (characters.length < LENGTH && !isPartial) {
    return { error: `${characters.length} characters; a VIN has ${LENGTH}`, wrong: [] };
  }
  // The last four characters are digits (ISO 3779). Titles of columns may have no digit.
  if (!isPartial && !/\d/.test(vin)) {
    return { error: "no digit; a VIN has some", wrong: [] };
  }
  return { error: null, wrong: [] };
}

function describe(character: string, at: number): string {
  const digit = CONFUSABLE.get(character);
  if (digit !== undefined) {
    return `the letter ${character} at position ${at + 1}; perhaps it is ${digit}`;
  }
  if (character === "*") return "the first three characters must be known";
  const shown = character.trim() === "" ? "a space" : `the character ${character}`;
  return `${shown} at position ${at + 1}; a VIN has letters and digits only`;
}
