// The bars that the chart shows at once: as many as fit, the newest ones first.
export interface ChartPage<Bucket> {
  buckets: readonly Bucket[];
  hasEarlier: boolean;
  hasLater: boolean;
}

/** Return the number of the page with that day, counted from the newest; 0 for none. */
export function pageWith(
  buckets: readonly { from: string; to: string }[],
  day: string | null,
  size: number,
): number {
  const at = day === null ? -1 : buckets.findIndex(({ to }) => to >= day);
  return at < 0 ? 0 : Math.floor((buckets.length - 1 - at) / size);
}

export function pageAt<Bucket>(
  buckets: readonly Bucket[],
  number: number,
  size: number,
): ChartPage<Bucket> {
  const last = Math.max(0, Math.ceil(buckets.length / size) - 1);
  const page = Math.min(number, last);
  const end = buckets.length - page * size;
  return {
    // The oldest page is as full as the others.
    buckets: buckets.slice(Math.max(0, end - size), Math.max(end, size)),
    hasEarlier: page < last,
    hasLater: page > 0,
  };
}
