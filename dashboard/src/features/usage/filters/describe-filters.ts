// The filters of a view in words: on paper, and in the name of a file.
import { formatRange } from "@/text/time";

import type { View } from "../view/view";
import { shorten } from "./shorten";

type Filtered = Pick<View, "range" | "report" | "search">;

/** `report “Lease Report”, Monday 29 April 2024`; empty where nothing is filtered. */
export function describeFilters(
  { range, report, search }: Filtered,
  describeRange = formatRange,
): string {
  return [
    range && describeRange(range),
    report === "" && "messages without a report",
    report && `report “${shorten(report)}”`,
    search !== "" && `report name contains “${shorten(search)}”`,
  ]
    .filter(Boolean)
    .join(", ");
}
