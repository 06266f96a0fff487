// Time zones: their names, and the wall clock of each.

const ZONE_NAME = /^[A-Za-z][\w+/-]{0,63}$/;
/** Zones change their offset at whole quarters of an hour. */
const QUARTER_MS = 900_000;

/** Return whether the browser knows a zone of this name. */
export function isZone(name: string): boolean {
  if (!ZONE_NAME.test(name)) return false;
  try {
    new Intl.DateTimeFormat("en", { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

/** Return the zone of the browser. */
export function browserZone(): string {
  return new Intl.DateTimeFormat("en").resolvedOptions().timeZone;
}

/**
 * Return a function from an instant to the wall clock of a zone, in milliseconds as if
 * the zone was UTC. It formats each quarter of an hour once: 100,000 messages share few.
 */
export function wallClock(zone: string): (instant: number) => number {
  const format = new Intl.DateTimeFormat("en-GB", {
    timeZone: zone,
    hourCycle: "h23",
    year: "numeric",
    month: "numeric",
    day: "numeric",
    hour: "numeric",
    minute: "numeric",
    second: "numeric",
  });
  const offsets = new Map<number, number>();
  const offsetAt = (quarter: number) => {
    const start = quarter * QUARTER_MS;
    const parts = new Map(
      format.formatToParts(start).map(({ type, value }) => [type, Number(value)]),
    );
    const part = (type: Intl.DateTimeFormatPartTypes) => parts.get(type) ?? 0;
    const clock = new Date(0);
    // Unlike `Date.UTC`, it takes the years 0 to 99 as they are.
    clock.setUTCFullYear(part("year"), part("month") - 1, part("day"));
    clock.setUTCHours(part("hour"), part("minute"), part("second"));
    return clock.getTime() - start;
  };
  return (instant) => {
    const quarter = Math.floor(instant / QUARTER_MS);
    let offset = offsets.get(quarter);
    if (offset === undefined) offsets.set(quarter, (offset = offsetAt(quarter)));
    return instant + offset;
  };
}
