// Bars of events by hour or day, and the same numbers as a table.
import { useState, type PointerEvent } from "react";

import { countOf, formatCount } from "@/text/credits";
import { formatStamp } from "@/text/stamps";
import { formatLongDay, formatShortDay } from "@/text/time";

import { topOf, type Bar } from "./range";

const HEIGHT = 100;
/** A gap between bars, in parts of a bar. */
const GAP = 0.2;
const MAX_DATES = 6;

interface Props {
  bars: readonly Bar[];
  bucket: "hour" | "day";
}

export function HourChart({ bars, bucket }: Props) {
  const [at, setAt] = useState<number | null>(null);
  const max = Math.max(...bars.map((bar) => bar.events));
  const top = topOf(max);
  const busiest = bars.find((bar) => bar.events === max);
  const step = Math.ceil(bars.length / MAX_DATES);
  const shown = at === null ? null : bars[at];
  const point = (event: PointerEvent<SVGSVGElement>) => {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    const index = Math.floor(((event.clientX - left) / width) * bars.length);
    setAt(index >= 0 && index < bars.length ? index : null);
  };
  return (
    <>
      {/* The table has these numbers for those who do not see the bars. */}
      <p className="chart-readout" aria-hidden="true">
        {shown
          ? `${nameOf(shown, bucket)}: ${countOf(shown.events, "event")}`
          : busiest && `Most: ${nameOf(busiest, bucket)}, ${countOf(max, "event")}`}
      </p>
      <div className="hour-chart">
        <div className="hour-chart-scale" aria-hidden="true">
          <span>{formatCount(top)}</span>
          <span>{formatCount(top / 2)}</span>
          <span>0</span>
        </div>
        <svg
          className="hour-chart-bars"
          viewBox={`0 0 ${bars.length} ${HEIGHT}`}
          preserveAspectRatio="none"
          role="img"
          aria-label={describe(bars, bucket)}
          onPointerMove={point}
          onPointerLeave={() => setAt(null)}
        >
          <path
            className="hour-chart-lines"
            d={`M0 0H${bars.length}M0 ${HEIGHT / 2}H${bars.length}M0 ${HEIGHT}H${bars.length}`}
          />
          {bars.map((bar, index) => {
            const height = (bar.events / top) * HEIGHT;
            return (
              <rect
                key={bar.start}
                className={index === at ? "hour-bar is-pointed" : "hour-bar"}
                x={index + GAP / 2}
                y={HEIGHT - height}
                width={1 - GAP}
                height={height}
              />
            );
          })}
        </svg>
        <div className="hour-chart-dates" aria-hidden="true">
          {bars.map(
            (bar, index) =>
              index % step === 0 && (
                <span
                  key={bar.start}
                  style={{
                    insetInlineStart: `${(100 * (index + 0.5)) / bars.length}%`,
                  }}
                >
                  {shortNameOf(bar, bucket)}
                </span>
              ),
          )}
        </div>
      </div>
      <details className="day-table">
        <summary>Show as a table</summary>
        <table>
          <caption>Events by {bucket} (UTC)</caption>
          <thead>
            <tr>
              <th scope="col">{bucket === "day" ? "Day" : "Hour"}</th>
              <th scope="col">Events</th>
            </tr>
          </thead>
          <tbody>
            {bars.map((bar) => (
              <tr key={bar.start}>
                <th scope="row">{nameOf(bar, bucket)}</th>
                <td>{formatCount(bar.events)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </details>
    </>
  );
}

function nameOf(bar: Bar, bucket: "hour" | "day"): string {
  return bucket === "day" ? formatLongDay(bar.start) : formatStamp(bar.start);
}

function shortNameOf(bar: Bar, bucket: "hour" | "day"): string {
  const day = formatShortDay(bar.start.slice(0, 10));
  return bucket === "day" ? day : `${day} ${bar.start.slice(11, 16)}`;
}

function describe(bars: readonly Bar[], bucket: "hour" | "day"): string {
  const [first, last] = [bars[0], bars.at(-1)];
  const total = bars.reduce((sum, bar) => sum + bar.events, 0);
  if (!first || !last) return "No events";
  return (
    `Bars of events by ${bucket}, from ${nameOf(first, bucket)} ` +
    `to ${nameOf(last, bucket)}: ${countOf(total, "event")}. ` +
    "The table below has the numbers."
  );
}
