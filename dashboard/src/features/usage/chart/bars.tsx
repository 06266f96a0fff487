// The drawing: lines at round numbers, a bar for each day or week, and dates.
import { memo, type ComponentProps, type Ref } from "react";

import { formatDay } from "@/text/time";

import type { DayRange } from "../period";
import type { Bucket } from "./buckets";
import { HEIGHT, type Geometry, type Segment } from "./geometry";

interface Props extends ComponentProps<"svg"> {
  ref: Ref<SVGSVGElement>;
  buckets: readonly Bucket[];
  geometry: Geometry;
  chosen: DayRange | null;
}

export function Bars({ buckets, geometry, chosen, ...rest }: Props) {
  const { width, left, top, bottom, columnWidth, barWidth, lines } = geometry;
  return (
    <svg
      className="chart-svg"
      viewBox={`0 0 ${width} ${HEIGHT}`}
      aria-hidden="true"
      {...rest}
    >
      {lines.map(({ text, y }) => (
        <g key={text} className="chart-line">
          <line x1={left} x2={width} y1={y} y2={y} />
          <text x={left - 6} y={y + 4} textAnchor="end">
            {text}
          </text>
        </g>
      ))}
      {buckets.map((bucket, at) => (
        <Column
          key={bucket.from}
          state={stateOf(bucket, chosen)}
          x={left + at * columnWidth}
          width={columnWidth}
          barWidth={barWidth}
          top={top}
          bottom={bottom}
          segments={geometry.bars[at] ?? NO_SEGMENTS}
        />
      ))}
      {geometry.dates.map(({ at, x, anchor }) => (
        <text key={at} className="chart-date" x={x} y={HEIGHT - 8} textAnchor={anchor}>
          {formatDay(buckets[at]?.from ?? "")}
        </text>
      ))}
    </svg>
  );
}

const NO_SEGMENTS: Segment[] = [];

type State = "is-chosen" | "is-muted" | undefined;

function stateOf({ from, to }: Bucket, chosen: DayRange | null): State {
  if (chosen === null) return undefined;
  return to >= chosen.from && from <= chosen.to ? "is-chosen" : "is-muted";
}

interface ColumnProps {
  state: State;
  x: number;
  width: number;
  barWidth: number;
  top: number;
  bottom: number;
  segments: readonly Segment[];
}

/** A bar, and all of the height above it; a drag renders only those that it reaches. */
const Column = memo(function Column(props: ColumnProps) {
  const { state, x, width, barWidth, top, bottom, segments } = props;
  return (
    <g className={state}>
      <rect
        className="chart-column"
        x={x}
        y={top}
        width={width}
        height={bottom - top}
      />
      {segments.map(({ colour, y, height }) => (
        <rect
          key={colour}
          className={`chart-bar colour-${colour}`}
          x={x + (width - barWidth) / 2}
          y={y}
          width={barWidth}
          height={height}
        />
      ))}
    </g>
  );
});
