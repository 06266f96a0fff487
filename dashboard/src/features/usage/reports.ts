// The reports of a period: their sums, their rank, and the colour of each.
import type { Row } from "./period";

export interface ReportSum {
  /** Empty for the messages without a report. */
  name: string;
  hundredths: number;
  messages: number;
}

/** Colours of the reports with the most credits; all further reports share one. */
const COLOURED_REPORTS = 6;
export const NO_REPORT_COLOUR = 0;
export const OTHER_COLOUR = COLOURED_REPORTS + 1;
export const COLOURS = OTHER_COLOUR + 1;

/** Return the sums of each report, the most credits first. */
export function rankReports(rows: readonly Row[]): ReportSum[] {
  const sums = new Map<string, ReportSum>();
  for (const { reportName: name, hundredths } of rows) {
    const sum = sums.get(name) ?? { name, hundredths: 0, messages: 0 };
    sum.hundredths += hundredths ?? 0;
    sum.messages += 1;
    sums.set(name, sum);
  }
  return [...sums.values()].sort(
    (a, b) => b.hundredths - a.hundredths || b.messages - a.messages,
  );
}

/** Return the number of the colour of each report; a filter changes no colour. */
export function colourReports(ranked: readonly ReportSum[]): (name: string) => number {
  const named = ranked.filter(({ name }) => name !== "").slice(0, COLOURED_REPORTS);
  const colours = new Map(named.map(({ name }, at) => [name, at + 1]));
  return (name) =>
    name === "" ? NO_REPORT_COLOUR : (colours.get(name) ?? OTHER_COLOUR);
}
