// The bars between their credits and their dates; many days scroll sideways.
import { memo, useMemo } from "react";

import { datesOf, linesOf } from "../chart-scale";
import { describeChart } from "../describe-chart";
import type { Day } from "../period";
import { ChartBars } from "./chart-bars";
import { ChartDates } from "./chart-dates";
import { ChartLines } from "./chart-lines";

interface Props {
  days: readonly Day[];
  onPick: (day: string) => void;
  onPoint: (day: string | null) => void;
}

/** A finger still finds a bar of this width; a month of them fits a small screen. */
const NARROWEST_COLUMN_REM = 0.4;
const MOST_WITHOUT_SCROLLING = 31;

export const ChartPlot = memo(function ChartPlot({ days, onPick, onPoint }: Props) {
  const lines = useMemo(() => linesOf(days), [days]);
  const dates = useMemo(() => datesOf(days), [days]);
  const label = useMemo(() => describeChart(days), [days]);
  const scrolling =
    days.length > MOST_WITHOUT_SCROLLING
      ? { role: "region", "aria-label": "Chart, scrolls sideways", tabIndex: 0 }
      : {};
  return (
    <div className="chart-plot">
      <ChartLines lines={lines} />
      <div className="chart-scroll" {...scrolling}>
        <div
          className="chart-inner"
          role="img"
          aria-label={label}
          style={{ minWidth: `${days.length * NARROWEST_COLUMN_REM}rem` }}
        >
          <ChartBars days={days} onPick={onPick} onPoint={onPoint} />
          <ChartDates dates={dates} />
        </div>
      </div>
    </div>
  );
});
