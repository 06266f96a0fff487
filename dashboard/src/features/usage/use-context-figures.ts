// What the credits of a period are measured by, as far as the service has it.
import { useEffect, useState } from "react";

import { useBudgets } from "./api/use-budgets";
import { useChanges } from "./api/use-changes";
import { useForecast } from "./api/use-forecast";
import { usePeriods } from "./api/use-periods";
import type { Period } from "./period";
import { useLastVisit } from "./summary/last-visit";
import type { View } from "./view/view";

/** Other plans and closed periods are not what the next visit is compared with. */
const NO_VISIT = { id: null, revision: null };
const LONGEST_WAIT_MS = 1_000;

/** Budgets and forecast are those of the current period under the plan of the bill. */
export function useContextFigures(period: Period | null, view: View) {
  const isBill = view.plan === null && view.period === null;
  const periods = usePeriods();
  const budgets = useBudgets(isBill);
  const forecast = useForecast(isBill);
  const id = period?.id ?? null;
  const list = periods.part ?? [];
  const at = list.findIndex((each) => each.id === (view.period ?? id));
  // A kept period has a number for its revision; `Usage-Revision` has none.
  const revision = list[at]?.revision ?? null;
  const visit = useLastVisit(isBill ? { id, revision } : NO_VISIT);
  const isSamePeriod = visit !== null && visit.period === id && isBill;
  const changes = useChanges(isSamePeriod ? visit : null);

  const isSettled = [periods, budgets, forecast, changes].every(
    (each) => each.isSettled,
  );
  return {
    periods: periods.part,
    previous: at < 0 || view.plan !== null ? null : (list[at + 1] ?? null),
    budgets: budgets.part ?? [],
    forecast: forecast.part,
    changes: isSamePeriod ? changes.part : null,
    visit,
    // Or what comes later would move what is read already.
    isReady: useEver(isSettled),
  };
}

/** Return whether something has been true, or has had its time to become true. */
function useEver(isTrue: boolean): boolean {
  const [isOver, setOver] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setOver(true), isTrue ? 0 : LONGEST_WAIT_MS);
    return () => clearTimeout(timer);
  }, [isTrue]);
  return isOver || isTrue;
}
