// A bar for each day. The whole column of a day can be pointed at, a day without
// credits too.
import { memo } from "react";
import { Bar, BarChart, type BarShapeProps } from "recharts";

import type { Day } from "../period";
import { ChartRect } from "./chart-rect";

interface Props {
  days: readonly Day[];
  /** Both have to stay the same between renderings, or all bars are drawn anew. */
  onPick: (day: string) => void;
  onPoint: (day: string | null) => void;
}

const NO_MARGIN = { top: 0, right: 0, bottom: 0, left: 0 };
/** Of a column's width. */
const BAR_SHARE = 0.86;
/** In pixels: a single day is a bar too, and no wall. */
const WIDEST_BAR = 72;

export const ChartBars = memo(function ChartBars({ days, onPick, onPoint }: Props) {
  const handlers = { onPick, onPoint };
  const drawColumn = ({ index, x, y, width, height }: BarShapeProps) => {
    const day = days[index]?.day ?? "";
    const place = { x, y, width, height };
    return <ChartRect kind="chart-column" day={day} {...place} {...handlers} />;
  };
  const drawBar = ({ index, x, y, width, height }: BarShapeProps) => {
    const day = days[index]?.day ?? "";
    const bar = Math.min(WIDEST_BAR, width * BAR_SHARE);
    const place = { x: x + (width - bar) / 2, y, width: bar, height };
    return <ChartRect kind="chart-bar" day={day} {...place} {...handlers} />;
  };
  return (
    <BarChart
      className="chart-bars"
      data={days}
      responsive
      margin={NO_MARGIN}
      barCategoryGap={0}
      accessibilityLayer={false}
      onMouseLeave={() => onPoint(null)}
    >
      <Bar
        dataKey={creditsOf}
        isAnimationActive={false}
        background={drawColumn}
        shape={drawBar}
      />
    </BarChart>
  );
});

function creditsOf(day: Day): number {
  return day.hundredths / 100;
}
