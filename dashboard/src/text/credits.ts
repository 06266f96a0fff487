// Credits are counted in whole hundredths, so that sums stay exact.

const WHOLE = new Intl.NumberFormat("en", { useGrouping: true });

/** Hundredths of a number of credits, or null for what is none. */
export function toHundredths(credits: unknown): number | null {
  if (typeof credits !== "number") return null;
  const hundredths = Math.round(credits * 100);
  return Number.isSafeInteger(hundredths) ? hundredths : null;
}

/** `123456` as `1,234.56`, for people. */
export function formatCredits(hundredths: number): string {
  const sign = hundredths < 0 ? "−" : "";
  const [whole, fraction] = split(hundredths);
  return `${sign}${WHOLE.format(whole)}.${fraction}`;
}

/** `123456` as `1234.56`, for programs. */
export function plainCredits(hundredths: number): string {
  const [whole, fraction] = split(hundredths);
  return `${hundredths < 0 ? "-" : ""}${whole}.${fraction}`;
}

/** A difference with its sign: `+1.00`, `−1.00`, `±0.00`. */
export function formatDifference(hundredths: number): string {
  if (hundredths === 0) return "±0.00";
  return (hundredths > 0 ? "+" : "") + formatCredits(hundredths);
}

/** `1234` as `1,234`. */
export function formatCount(count: number): string {
  return WHOLE.format(count);
}

/** `1 message`, `2 messages`. */
export function countOf(count: number, noun: string): string {
  return `${WHOLE.format(count)} ${noun}${count === 1 ? "" : "s"}`;
}

function split(hundredths: number): [number, string] {
  const size = Math.abs(hundredths);
  return [Math.floor(size / 100), String(size % 100).padStart(2, "0")];
}
