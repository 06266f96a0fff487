// JSON whose numbers stay as they were sent: `2^53 + 1` and `1.0` too.
//
// Payloads are shown in the form of their sender, and may have megabytes. So this uses
// the parser of the browser; `@/api/exact-json` turns large ids into texts instead.

/** A number that JavaScript would show in another way than it was sent. */
export class ExactNumber {
  readonly source: string;

  constructor(source: string) {
    this.source = source;
  }
}

/** Parse JSON; browsers that do not tell the text of a number round it. */
export function parseExact(text: string): unknown {
  return JSON.parse(text, keepSource);
}

function keepSource(
  _key: string,
  value: unknown,
  context?: { source?: string },
): unknown {
  const source = context?.source;
  if (typeof value !== "number" || source === undefined) return value;
  return String(value) === source ? value : new ExactNumber(source);
}
