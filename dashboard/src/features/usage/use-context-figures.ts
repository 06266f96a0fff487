// What the credits of a period are measured by, as far as the service has it.
import { useEffect, useState } from "react";

import { useBudgets } from "./api/use-budgets";
import { useChanges } from "./api/use-changes";
import { useForecast } from "./api/use-forecast";
import { usePeriods } from "./api/use-periods";
import type { Period } from "./period";
import { useLastVisit } from "./summary/last-visit";
import type { View } from "./view/view";

const LONGEST_WAIT_MS = 1_000;

/** Budgets and forecast are those of the current period under the plan of the bill. */
export function useContextFigures(period: Period | null, view: View) {
  const isBill = view.plan === null && view.period === null;
  const periods = usePeriods();
  const budgets = useBudgets(isBill);
  const forecast = useForecast(isBill);
  const { id, revision } = period ?? { id: null, revision: null };
  const visit = useLastVisit({ id, revision });
  const isSamePeriod = visit !== null && visit.period === id && isBill;
  const changes = useChanges(isSamePeriod ? visit : null);

  const list = periods.part ?? [];
  const at = list.findIndex((each) => each.id === (view.period ?? id));
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
