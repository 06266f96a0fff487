// A rectangle of the chart: a day's bar, or the whole column that it stands in.
import { use, type MouseEvent } from "react";

import { ChosenDay } from "../chosen-day";

interface Props {
  kind: "chart-bar" | "chart-column";
  day: string;
  x: number;
  y: number;
  width: number;
  height: number;
  onPick: (day: string) => void;
  onPoint: (day: string) => void;
}

/** A pointer's way only: the table of days and the filters are everyone's. */
export function ChartRect(props: Props) {
  const { kind, day, x, y, width, height, onPick, onPoint } = props;
  const chosen = use(ChosenDay);
  const state = chosen === null ? "" : chosen === day ? " is-chosen" : " is-muted";
  return (
    <rect
      className={kind + state}
      x={x}
      y={Math.min(y, y + height)}
      width={width}
      height={Math.abs(height)}
      onClick={(event) => {
        event.stopPropagation();
        onPick(day);
      }}
      onMouseEnter={() => onPoint(day)}
      onMouseMove={keepFromRecharts}
    />
  );
}

/** For a tooltip, which there is none of, it would draw all bars at each move. */
function keepFromRecharts(event: MouseEvent) {
  event.stopPropagation();
}
