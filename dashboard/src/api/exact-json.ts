// JSON whose large whole numbers stay exact: ids may exceed 2^53.

/** Shorter numbers are exact in JavaScript. */
const MAYBE_INEXACT = /\d{16}/;

/**
 * Parse JSON; a whole number that JavaScript would round becomes a text.
 *
 * The exact parser is much slower, so it is loaded only for a text with such numbers.
 */
export async function parseExactly(text: string): Promise<unknown> {
  if (!MAYBE_INEXACT.test(text)) return JSON.parse(text) as unknown;
  const { isInteger, isSafeNumber, parse } = await import("lossless-json");
  return parse(text, null, (number) =>
    isInteger(number) && !isSafeNumber(number) ? number : Number(number),
  );
}
