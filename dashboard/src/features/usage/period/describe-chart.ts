// The chart in one sentence, for those who do not see it.
import { countOf, formatCredits } from "@/text/credits";
import { formatLongDay } from "@/text/time";

import type { Day } from "./period";
import { busiestOf } from "./sums";

export function describeChart(days: readonly Day[]): string {
  const [first, last] = [days.at(0), days.at(-1)];
  if (!first || !last) return "Bar chart of credits per day, without a day.";
  const busiest = busiestOf(days);
  const most = busiest
    ? `the most on ${formatLongDay(busiest.day)}: ${formatCredits(busiest.hundredths)}`
    : "no credits on any day";
  const span =
    first === last
      ? `on ${formatLongDay(first.day)}`
      : `over ${countOf(days.length, "day")}, from ${formatLongDay(first.day)} to ${formatLongDay(last.day)}`;
  return `Bar chart of credits per day, ${span}; ${most}.`;
}
