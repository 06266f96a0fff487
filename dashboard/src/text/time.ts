// Moments as the page writes them. Days are those of the zone that the view names.

const DAY_MS = 86_400_000;
const DATE_ONLY = /^\d{4}-\d{2}-\d{2}$/;
// `Date.parse` alone would also take what is no timestamp, such as `May 5`.
const ISO_8601 =
  /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)(Z|[+-]\d{2}(?::?\d{2})?)?)?$/i;
const FIRST_INSTANT = Date.parse("0001-01-01T00:00Z");
const LAST_INSTANT = Date.parse("9999-12-31T23:59:59.999Z");
const SHORT_DAY = new Intl.DateTimeFormat("en-GB", {
  day: "numeric",
  month: "short",
  timeZone: "UTC",
});
const LONG_DAY = new Intl.DateTimeFormat("en-GB", {
  weekday: "long",
  day: "numeric",
  month: "long",
  year: "numeric",
  timeZone: "UTC",
});

/** Milliseconds since 1970 of an ISO 8601 timestamp; UTC where it names no offset. */
export function readInstant(timestamp: string): number | null {
  const parts = ISO_8601.exec(timestamp.trim());
  if (!parts) return null;
  const [, date = "", time = "00:00", offset = "Z"] = parts;
  const instant = Date.parse(`${date}T${time}${normalizeOffset(offset)}`);
  // An offset can lead out of the years that are written with four digits.
  return instant >= FIRST_INSTANT && instant <= LAST_INSTANT ? instant : null;
}

/** `+01` and `+0100` as `+01:00`, the one way that every browser reads. */
function normalizeOffset(offset: string): string {
  if (offset.length === 1) return "Z";
  const minutes = offset.length > 3 ? offset.slice(-2) : "00";
  return `${offset.slice(0, 3)}:${minutes}`;
}

/** The day of a moment in UTC: `2024-04-29`. */
export function dayOf(instant: number): string {
  return new Date(instant).toISOString().slice(0, 10);
}

/** `29-04-2024 03:25`, in UTC. */
export function formatInstant(instant: number): string {
  const iso = new Date(instant).toISOString();
  const [year, month, day] = [iso.slice(0, 4), iso.slice(5, 7), iso.slice(8, 10)];
  return `${day}-${month}-${year} ${iso.slice(11, 16)}`;
}

/** `29 Apr`. */
export function formatShortDay(day: string): string {
  return SHORT_DAY.format(Date.parse(day));
}

/** `29-04-2024`. */
export function formatDay(day: string): string {
  return `${day.slice(8, 10)}-${day.slice(5, 7)}-${day.slice(0, 4)}`;
}

/** The day so many days later: `2024-04-30`. */
export function addDays(day: string, count: number): string {
  return dayOf(Date.parse(day) + count * DAY_MS);
}

/** The number of days since Monday. */
export function weekdayOf(day: string): number {
  return (new Date(day).getUTCDay() + 6) % 7;
}

/** `Monday 29 April 2024`. */
export function formatLongDay(day: string): string {
  return LONG_DAY.format(Date.parse(day)).replace(",", "");
}

/** Whether a text is a day that there is: not `2024-02-30`. */
export function isDay(text: string): boolean {
  if (!DATE_ONLY.test(text)) return false;
  const instant = Date.parse(text);
  return !Number.isNaN(instant) && dayOf(instant) === text;
}

/** Every day from one to another, both included; none where the range is absurd. */
export function daysBetween(first: string, last: string, limit: number): string[] {
  const [start, end] = [Date.parse(first), Date.parse(last)];
  const count = Math.round((end - start) / DAY_MS) + 1;
  if (!(count > 0 && count <= limit)) return [];
  return Array.from({ length: count }, (_, at) => dayOf(start + at * DAY_MS));
}

/** `just now`, `12 seconds ago`, `3 minutes ago`, `5 hours ago`, `2 days ago`. */
export function formatAge(ageMs: number): string {
  const seconds = Math.floor(ageMs / 1000);
  if (seconds < 5) return "just now";
  const steps: [number, string][] = [
    [86_400, "day"],
    [3_600, "hour"],
    [60, "minute"],
    [1, "second"],
  ];
  const [size, unit] = steps.find(([size]) => seconds >= size) ?? [1, "second"];
  const count = Math.floor(seconds / size);
  return `${count} ${unit}${count === 1 ? "" : "s"} ago`;
}

/** `Monday 29 April 2024`, or `29-04-2024 to 05-05-2024` for several days. */
export function formatRange({ from, to }: { from: string; to: string }): string {
  if (from === to) return formatLongDay(from);
  return `${formatDay(from)} to ${formatDay(to)}`;
}

/** The same for the name of a file, where `01-05-2024` may be read as 5 January. */
export function formatRangeOfFile({ from, to }: { from: string; to: string }): string {
  return from === to ? formatLongDay(from) : `${from} to ${to}`;
}
