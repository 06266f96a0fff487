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
  onPoint: (from: string | null) => void;
}

export function Bars({ buckets, geometry, chosen, onPoint, ...rest }: Props) {
  const { width, left, top, bottom, columnWidth, barWidth, lines } = geometry;
  return (
    <svg
      className="chart-svg"
      viewBox={`0 0 ${width} ${HEIGHT}`}
      aria-hidden="true"
      onPointerLeave={() => onPoint(null)}
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
      {buckets.map((bucket, at) => {
        const x = left + at * columnWidth;
        const isChosen =
          chosen !== null && bucket.to >= chosen.from && bucket.from <= chosen.to;
        return (
          <g
            key={bucket.from}
            className={
              chosen === null ? undefined : isChosen ? "is-chosen" : "is-muted"
            }
          >
            <rect
              className="chart-column"
              x={x}
              y={top}
              width={columnWidth}
              height={bottom - top}
              onPointerEnter={() => onPoint(bucket.from)}
            />
            <Bar
              x={x + (columnWidth - barWidth) / 2}
              width={barWidth}
              segments={geometry.bars[at] ?? NO_SEGMENTS}
            />
          </g>
        );
      })}
      {geometry.dates.map(({ at, x, anchor }) => (
        <text key={at} className="chart-date" x={x} y={HEIGHT - 8} textAnchor={anchor}>
          {formatDay(buckets[at]?.from ?? "")}
        </text>
      ))}
    </svg>
  );
}

const NO_SEGMENTS: Segment[] = [];

interface BarProps {
  x: number;
  width: number;
  segments: readonly Segment[];
}

const Bar = memo(function Bar({ x, width, segments }: BarProps) {
  return segments.map(({ colour, y, height }) => (
    <rect
      key={colour}
      className={`chart-bar colour-${colour}`}
      x={x}
      y={y}
      width={width}
      height={height}
    />
  ));
});
