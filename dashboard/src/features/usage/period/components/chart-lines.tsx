// The chart's height in numbers: a line and its credits at each round number.
import type { Line } from "../chart-scale";

interface Props {
  lines: readonly Line[];
}

const SHORT = new Intl.NumberFormat("en", {
  notation: "compact",
  maximumFractionDigits: 2,
});

export function ChartLines({ lines }: Props) {
  return (
    <div className="chart-lines">
      {lines.map(({ credits, percent }) => (
        <div key={credits} className="chart-line" style={{ bottom: `${percent}%` }}>
          <span>{SHORT.format(credits)}</span>
        </div>
      ))}
    </div>
  );
}
