// The period on the screen: filters, and how much, which report, which day, which message.
import { useMemo } from "react";

import { planName } from "@/text/plans";
import { formatRangeOfFile } from "@/text/time";

import type { PeriodAnswer } from "./api/use-period";
import { UsageChart } from "./chart/usage-chart";
import { describeFilters } from "./filters/describe-filters";
import { Filters } from "./filters/filters";
import { Messages } from "./messages";
import { Notices } from "./notices";
import type { DayRange } from "./period";
import { ComparePlans } from "./plans/compare-plans";
import { WhatIfNotice } from "./plans/what-if";
import { HowMuch } from "./summary/how-much";
import { WhichReport } from "./summary/which-report";
import { ExportButton } from "./table/export-button";
import type { useContextFigures } from "./use-context-figures";
import { useFigures } from "./use-figures";
import type { ChangeView } from "./view/use-view";
import type { ChartStep, View } from "./view/view";

interface Props {
  answer: PeriodAnswer;
  context: ReturnType<typeof useContextFigures>;
  /** Why the last refresh failed, while an earlier answer is shown. */
  error: Error | null;
  /** Whether figures of another plan or period are on their way. */
  isChanging: boolean;
  isWhatIf: boolean;
  /** The parts of the address that are not valid. */
  ignored: readonly string[];
  onRetry: () => void;
  view: View;
  onChange: ChangeView;
}

export function UsageView(props: Props) {
  const { answer, context, isChanging, isWhatIf, view, onChange } = props;
  const { period } = answer;
  const figures = useFigures(period, view);
  const { rows, days, range, shown, whole, totals, buckets } = figures;
  const { reports, colourOf } = figures;
  const [first, last] = [days.at(0)?.day, days.at(-1)?.day];
  const filters = describeFilters(view);
  const plan = period.plan ?? view.plan;
  const choose = useChoices(onChange);
  return (
    <div className="usage" aria-busy={isChanging}>
      <p role="status" className="visually-hidden">
        {plan !== null && !isChanging && `Prices of ${planName(plan)}.`}
      </p>
      {isWhatIf && plan !== null && (
        <WhatIfNotice plan={plan} onEnd={() => onChange({ plan: null })} />
      )}
      <Notices
        answer={answer}
        ignored={props.ignored}
        error={props.error}
        onRetry={props.onRetry}
      />
      {/* An empty period must not hide the ones before. */}
      {(rows.length > 0 || (context.periods?.length ?? 0) > 0) && (
        <Filters
          rows={rows}
          days={days}
          periods={context.periods}
          view={view}
          onChange={onChange}
          shown={shown.length}
        />
      )}
      <p className="print-only">
        {filters === "" ? "All messages of the period" : `Only ${filters}`}
        {plan !== null && `; ${planName(plan)}`}
        {isWhatIf && " (not your plan)"}; time zone {view.zone}.
      </p>
      <div className="glance">
        <HowMuch
          shown={totals}
          whole={whole}
          isFiltered={filters !== ""}
          isWhatIf={isWhatIf}
          span={range ?? (first && last ? { from: first, to: last } : null)}
          zone={view.zone}
          {...context}
        >
          <ComparePlans
            shown={view.plan}
            period={view.period}
            onChoose={(plan) => onChange({ plan })}
          />
        </HowMuch>
        {rows.length > 0 && (
          <WhichReport
            reports={reports}
            colourOf={colourOf}
            chosen={view.report}
            onChoose={choose.report}
          />
        )}
      </div>
      {rows.length === 0 ? (
        <p className="card empty">No messages yet in this period.</p>
      ) : (
        <>
          <UsageChart
            buckets={buckets}
            step={view.step}
            zone={view.zone}
            chosen={view.range}
            onChoose={choose.range}
            onStep={choose.step}
          />
          <section className="card" aria-labelledby="messages-title">
            <div className="section-head">
              <h2 id="messages-title">Which message</h2>
              <ExportButton
                rows={shown}
                sorting={view.sorting}
                zone={view.zone}
                period={first && last ? `${first} to ${last}` : ""}
                plan={plan}
                isWhatIf={isWhatIf}
                filters={describeFilters(view, formatRangeOfFile)}
              />
            </div>
            <Messages
              rows={shown}
              sorting={figures.sorting}
              zone={view.zone}
              // Those of these rows, while those of others are on their way.
              period={answer.askedFor}
              plan={plan}
              onChange={onChange}
            />
          </section>
        </>
      )}
    </div>
  );
}

/** The same functions at each render, or the chart and the bars would render again. */
function useChoices(onChange: ChangeView) {
  return useMemo(
    () => ({
      range: (range: DayRange | null) => onChange({ range }),
      report: (report: string | null) => onChange({ report }),
      step: (step: ChartStep) => onChange({ step }),
    }),
    [onChange],
  );
}
