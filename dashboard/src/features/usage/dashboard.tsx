// The period on the screen: notices, plans, tiles, chart, filters and the table.
import { useDeferredValue, useMemo } from "react";

import type { Freshness } from "@/api/freshness";
import { DailyChart } from "@/features/usage/period/components/daily-chart";
import { ExportButton } from "@/features/usage/period/components/export-button";
import { Filters } from "@/features/usage/period/components/filters";
import { Tiles } from "@/features/usage/period/components/tiles";
import type { Period } from "@/features/usage/period/period";
import { filterRows } from "@/features/usage/period/select-rows";
import { busiestOf, sumAll, sumByDay } from "@/features/usage/period/sums";
import { PlanSwitch } from "@/features/usage/plan/components/plan-switch";
import type { ChangeView } from "@/features/usage/view/use-view";
import type { View } from "@/features/usage/view/view";

import { Messages } from "./messages";
import { Notices } from "./notices";

interface Props {
  period: Period;
  freshness: Freshness;
  /** Why the last refresh failed, while an earlier answer is shown. */
  error: Error | null;
  isChangingPlan: boolean;
  onRetry: () => void;
  view: View;
  onChange: ChangeView;
}

export function Dashboard(props: Props) {
  const { period, freshness, error, isChangingPlan, onRetry, view, onChange } = props;
  const { rows } = period;
  const days = useMemo(() => sumByDay(rows), [rows]);
  const totals = useMemo(() => sumAll(rows), [rows]);
  const busiest = useMemo(() => busiestOf(days), [days]);
  // What was clicked or typed shows at once; the table, which may be long, follows.
  const { day, report, search, sorting } = useDeferredValue(view);
  const shown = useMemo(
    () => filterRows(rows, { day, report, search }),
    [rows, day, report, search],
  );

  return (
    <div aria-busy={isChangingPlan}>
      <Notices period={period} freshness={freshness} error={error} onRetry={onRetry} />
      <PlanSwitch shown={view.plan} onChoose={(plan) => onChange({ plan })} />
      <Tiles totals={totals} busiest={busiest} freshness={freshness} />
      {rows.length === 0 ? (
        <p className="card empty">No messages yet in this period.</p>
      ) : (
        <>
          <DailyChart
            days={days}
            chosen={view.day}
            onChoose={(day) => onChange({ day })}
          />
          <section className="card" aria-labelledby="messages-title">
            <div className="section-head">
              <h2 id="messages-title">Messages</h2>
              <ExportButton rows={shown} sorting={sorting} />
            </div>
            <Filters
              rows={rows}
              days={days}
              view={view}
              onChange={onChange}
              shown={shown.length}
            />
            <Messages
              rows={shown}
              sorting={sorting}
              // The plan that priced these rows, while another one's are on their way.
              plan={period.plan ?? view.plan}
              onChange={onChange}
            />
          </section>
        </>
      )}
    </div>
  );
}
