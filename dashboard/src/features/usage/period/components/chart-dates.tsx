// The chart's width in dates; a narrow screen shows every other one.
import type { DateLabel } from "../chart-scale";

interface Props {
  dates: readonly DateLabel[];
}

export function ChartDates({ dates }: Props) {
  return (
    <div className="chart-dates">
      {dates.map(({ day, text, percent, end }) => (
        <span
          key={day}
          className={end ? `chart-date is-${end}` : "chart-date"}
          style={{ left: `${percent}%` }}
        >
          {text}
        </span>
      ))}
    </div>
  );
}
