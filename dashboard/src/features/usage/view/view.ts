// What the address says about the view, and back. An address is untrusted: what it says
// wrongly is as if it had not been said.
import { isDay } from "@/text/time";
import { isZone } from "@/text/zones";

import type { DayRange } from "../period";

export const SORT_COLUMNS = ["report_name", "credits_used"] as const;
export type SortColumn = (typeof SORT_COLUMNS)[number];
export type Direction = "asc" | "desc";

export const STEPS = ["day", "week", "total"] as const;
/** The bars of the chart: a day each, a week each, or the credits up to each day. */
export type ChartStep = (typeof STEPS)[number];

export interface ColumnSort {
  column: SortColumn;
  direction: Direction;
}

/** Everything about the page that an address reproduces. */
export interface View {
  /** By importance; empty is the order of the messages. */
  sorting: readonly ColumnSort[];
  /** Days in the zone; null is all of them. */
  range: DayRange | null;
  /** A report's name; the empty text is the messages that no report priced. */
  report: string | null;
  /** Text that a report's name has to contain. */
  search: string;
  /** The plan to price by; null is the service's default. */
  plan: string | null;
  /** Id of a kept period; null is the current one. */
  period: string | null;
  /** Name of the time zone of days and times. */
  zone: string;
  step: ChartStep;
  /** Whether another site shows the page in a frame, without the navigation. */
  isEmbedded: boolean;
}

export const DEFAULT_VIEW: View = {
  sorting: [],
  range: null,
  report: null,
  search: "",
  plan: null,
  period: null,
  zone: "UTC",
  step: "day",
  isEmbedded: false,
};

/** What `Clear filters` sets: every message is shown. */
export const NO_FILTERS = {
  range: null,
  report: null,
  search: "",
} as const satisfies Partial<View>;

/** Two such texts, nine letters to a character, still fit the first line of a request. */
export const LONGEST_TEXT = 300;
const PERIOD_ID = /^\d{4}-\d{2}-\d{2}(?:-\d{1,6})?$/;
const PLAN_NAME = /^[a-z0-9-]{1,40}(?:\/[0-9]{1,4})?$/;

/** Reads the query of an address; the first of a parameter given twice counts. */
export function parseView(query: string): View {
  const given = new URLSearchParams(query);
  const zone = given.get("tz");
  const period = given.get("period");
  const step = STEPS.find((each) => each === given.get("by"));
  const plan = given.get("plan");
  const report = given.get("report");
  return {
    sorting: parseSorting(given.get("sorting") ?? ""),
    range: parseRange(given),
    report: report !== null && report.length <= LONGEST_TEXT ? report : null,
    search: given.get("search")?.slice(0, LONGEST_TEXT) ?? "",
    plan: plan !== null && PLAN_NAME.test(plan) ? plan : null,
    period: period !== null && PERIOD_ID.test(period) ? period : null,
    zone: zone !== null && isZone(zone) ? zone : DEFAULT_VIEW.zone,
    step: step ?? DEFAULT_VIEW.step,
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
  const { range, report, search, plan, period, zone, step } = view;
  const sorting = view.sorting.map((each) => `${each.column}:${each.direction}`);
  const parts = [
    sorting.length ? `sorting=${sorting.join(";")}` : "",
    range === null ? "" : formatRange(range),
    report === null || report.length > LONGEST_TEXT ? "" : `report=${encode(report)}`,
    search === "" ? "" : `search=${encode(search.slice(0, LONGEST_TEXT))}`,
    plan === null ? "" : `plan=${encode(plan)}`,
    period === null ? "" : `period=${period}`,
    zone === DEFAULT_VIEW.zone ? "" : `tz=${encode(zone).replaceAll("%2F", "/")}`,
    step === DEFAULT_VIEW.step ? "" : `by=${step}`,
    view.isEmbedded ? "embed=1" : "",
  ].filter((part) => part !== "");
  return parts.length ? `?${parts.join("&")}` : "";
}

/** Reads `day=2024-05-02`, or `from=2024-04-29&to=2024-05-02`, both included. */
function parseRange(given: URLSearchParams): DayRange | null {
  const day = given.get("day");
  const [from, to] = [day ?? given.get("from"), day ?? given.get("to")];
  if (from === null || to === null || !isDay(from) || !isDay(to)) return null;
  return from <= to ? { from, to } : null;
}

function formatRange({ from, to }: DayRange): string {
  return from === to ? `day=${from}` : `from=${from}&to=${to}`;
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
