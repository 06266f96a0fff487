// All figures of the page, computed from the rows that the filters let through.
import { useDeferredValue, useMemo } from "react";

import { bucketsOf } from "./chart/buckets";
import { localize, type Period } from "./period";
import { colourReports, rankReports } from "./reports";
import { filterRows } from "./select-rows";
import { sumAll, sumByDay } from "./sums";
import type { View } from "./view/view";

/** What does not depend on the filters, and what does. */
export function useFigures(period: Period, view: View) {
  // What was clicked or typed shows at once; the figures follow.
  const { range, report, search, zone, step, sorting } = useDeferredValue(view);
  const rows = useMemo(() => localize(period.rows, zone), [period.rows, zone]);
  const days = useMemo(() => sumByDay(rows), [rows]);
  const whole = useMemo(() => sumAll(rows), [rows]);
  const colourOf = useMemo(() => colourReports(rankReports(rows)), [rows]);
  const found = useMemo(
    () => filterRows(rows, { range: null, report: null, search }),
    [rows, search],
  );
  const shown = useMemo(
    () => filterRows(found, { range, report, search: "" }),
    [found, range, report],
  );
  const totals = useMemo(() => sumAll(shown), [shown]);
  // A report is chosen among the others, and days among the others.
  const reports = useMemo(
    () => rankReports(filterRows(found, { range, report: null, search: "" })),
    [found, range],
  );
  const buckets = useMemo(() => {
    const counted = filterRows(found, { range: null, report, search: "" });
    return bucketsOf(counted, { days: days.map(({ day }) => day), step, colourOf });
  }, [found, report, days, step, colourOf]);
  return {
    rows,
    days,
    range,
    whole,
    colourOf,
    shown,
    totals,
    reports,
    buckets,
    sorting,
  };
}
