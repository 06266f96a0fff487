// The chart and its bars in sentences, for those who do not see it.
import { countOf, formatCredits } from "@/text/credits";
import { formatLongDay, formatRange } from "@/text/time";

import type { ChartStep } from "../view/view";
import type { Bucket } from "./buckets";

const KINDS: Record<ChartStep, string> = {
  day: "credits per day",
  week: "credits per week",
  total: "credits up to each day",
};

export function describeChart(buckets: readonly Bucket[], step: ChartStep): string {
  const [first, last] = [buckets.at(0), buckets.at(-1)];
  if (!first || !last) return `Bar chart of ${KINDS[step]}, without a day.`;
  const highest = buckets.reduce((a, b) => (b.hundredths > a.hundredths ? b : a));
  const most =
    highest.hundredths > 0
      ? `the most on ${formatRange(highest)}: ${formatCredits(highest.hundredths)}`
      : "no credits on any day";
  const span =
    first.from === last.to
      ? `on ${formatLongDay(first.from)}`
      : `from ${formatLongDay(first.from)} to ${formatLongDay(last.to)}`;
  return `Bar chart of ${KINDS[step]}, ${span}; ${most}.`;
}

/** `Thursday 2 May 2024: 81.85 credits, 3 messages`. */
export function describeBucket(bucket: Bucket, step: ChartStep): string {
  const { hundredths, messages } = bucket;
  const when =
    step === "total" ? `Until ${formatLongDay(bucket.to)}` : formatRange(bucket);
  return `${when}: ${formatCredits(hundredths)} credits, ${countOf(messages, "message")}`;
}
