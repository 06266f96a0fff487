// A long text where only one line is.

const LONGEST = 60;

/** Cut between characters as people see them, never inside one. */
export function shorten(text: string): string {
  if (text.length <= LONGEST) return text;
  const start = Array.from(text.slice(0, LONGEST * 2)).slice(0, LONGEST - 1);
  return `${start.join("").trimEnd()}…`;
}
