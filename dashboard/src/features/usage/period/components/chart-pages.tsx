// The way through a period of more days than the chart shows at once.
import { formatCount } from "@/text/credits";
import { formatLongDay } from "@/text/time";

import type { Stretch } from "../stretch";

interface Props {
  stretch: Stretch;
  count: number;
  onTurn: (by: number) => void;
}

export function ChartPages({ stretch, count, onTurn }: Props) {
  const { days, hasEarlier, hasLater } = stretch;
  if (!hasEarlier && !hasLater) return null;
  const [first, last] = [days.at(0), days.at(-1)];
  return (
    <p className="chart-pages">
      <button type="button" disabled={!hasEarlier} onClick={() => onTurn(-1)}>
        Earlier days
      </button>
      <span role="status">
        {first && formatLongDay(first.day)} to {last && formatLongDay(last.day)}, of{" "}
        {formatCount(count)} days
      </span>
      <button type="button" disabled={!hasLater} onClick={() => onTurn(1)}>
        Later days
      </button>
    </p>
  );
}
