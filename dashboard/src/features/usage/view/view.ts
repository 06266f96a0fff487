// What the address says about the view, and back. An address is untrusted: what it says
// wrongly is as if it had not been said.
import { isDay } from "@/text/time";

export const SORT_COLUMNS = ["report_name", "credits_used"] as const;
export type SortColumn = (typeof SORT_COLUMNS)[number];
export type Direction = "asc" | "desc";

export interface ColumnSort {
  column: SortColumn;
  direction: Direction;
}

/** Everything about the page that an address reproduces. */
export interface View {
  /** By importance; empty is the order of the messages. */
  sorting: readonly ColumnSort[];
  /** A UTC day, `2024-04-29`. */
  day: string | null;
  /** A report's name; the empty text is the messages that no report priced. */
  report: string | null;
  /** Text that a report's name has to contain. */
  search: string;
  /** The plan to price by; null is the service's default. */
  plan: string | null;
  /** Whether another site shows the page in a frame, without the navigation. */
  isEmbedded: boolean;
}

export const DEFAULT_VIEW: View = {
  sorting: [],
  day: null,
  report: null,
  search: "",
  plan: null,
  isEmbedded: false,
};

/** What `Clear filters` sets: every message is shown. */
export const NO_FILTERS = {
  day: null,
  report: null,
  search: "",
} as const satisfies Partial<View>;

/** Two such texts, nine letters to a character, still fit the first line of a request. */
export const LONGEST_TEXT = 300;
const PLAN_NAME = /^[a-z0-9-]{1,40}(?:\/[0-9]{1,4})?$/;

/** Reads the query of an address; the first of a parameter given twice counts. */
export function parseView(query: string): View {
  const given = new URLSearchParams(query);
  const day = given.get("day");
  const plan = given.get("plan");
  const report = given.get("report");
  return {
    sorting: parseSorting(given.get("sorting") ?? ""),
    day: day !== null && isDay(day) ? day : null,
    report: report !== null && report.length <= LONGEST_TEXT ? report : null,
    search: given.get("search")?.slice(0, LONGEST_TEXT) ?? "",
    plan: plan !== null && PLAN_NAME.test(plan) ? plan : null,
    isEmbedded: given.get("embed") === "1",
  };
}

/**
 * The query that says this view; empty for the default one.
 *
 * A report's name that is too long is left out: an address that no server takes would
 * reproduce nothing at all.
 */
export function formatView(view: View): string {
  const { day, report, search, plan } = view;
  const sorting = view.sorting.map((each) => `${each.column}:${each.direction}`);
  const parts = [
    sorting.length ? `sorting=${sorting.join(";")}` : "",
    day === null ? "" : `day=${day}`,
    report === null || report.length > LONGEST_TEXT ? "" : `report=${encode(report)}`,
    search === "" ? "" : `search=${encode(search.slice(0, LONGEST_TEXT))}`,
    plan === null ? "" : `plan=${encode(plan)}`,
    view.isEmbedded ? "embed=1" : "",
  ].filter((part) => part !== "");
  return parts.length ? `?${parts.join("&")}` : "";
}

function parseSorting(text: string): ColumnSort[] {
  const sorting: ColumnSort[] = [];
  for (const pair of text.split(";")) {
    const [column, direction, ...rest] = pair.split(":");
    if (!isSortColumn(column) || direction === undefined || rest.length) continue;
    if (sorting.some((each) => each.column === column)) continue;
    sorting.push({ column, direction: direction === "desc" ? "desc" : "asc" });
  }
  return sorting;
}

function isSortColumn(text: string | undefined): text is SortColumn {
  return SORT_COLUMNS.some((column) => column === text);
}

/** Percent-encodes; a lone surrogate, which has no encoding, becomes U+FFFD. */
function encode(text: string): string {
  return encodeURIComponent(text.toWellFormed()).replaceAll("%20", "+");
}
