// What the bar pointed at, or else the chosen one, stands for.
import { countOf, formatCredits } from "@/text/credits";
import { formatLongDay } from "@/text/time";

import type { Day } from "../period";

interface Props {
  day: Day | undefined;
}

export function ChartReadout({ day }: Props) {
  return (
    <p className="chart-readout" aria-hidden="true">
      {day ? (
        <>
          {formatLongDay(day.day)}: <b>{formatCredits(day.hundredths)} credits</b>,{" "}
          {countOf(day.messages, "message")}
        </>
      ) : (
        "Point at a bar to read it; click it to see that day alone."
      )}
    </p>
  );
}
