// Credits per day: bars for the eye, a table for everyone, both of them a filter.
import { useMemo, useState } from "react";

import { ChosenDay } from "../chosen-day";
import type { Day } from "../period";
import { lastStretch, stretchAt, stretchWith } from "../stretch";
import { useSteady } from "../use-steady";
import { ChartPages } from "./chart-pages";
import { ChartPlot } from "./chart-plot";
import { ChartReadout } from "./chart-readout";
import { DayTable } from "./day-table";

interface Props {
  days: readonly Day[];
  chosen: string | null;
  onChoose: (day: string | null) => void;
}

/** Where the reader has turned to; a day chosen elsewhere turns the chart to itself. */
interface Turned {
  number: number;
  chosen: string | null;
}

export function DailyChart({ days, chosen, onChoose }: Props) {
  const [pointed, setPointed] = useState<string | null>(null);
  const [turned, setTurned] = useState<Turned | null>(null);
  const wanted = turned?.chosen === chosen ? turned.number : stretchWith(days, chosen);
  const number = Math.min(wanted, lastStretch(days));
  const stretch = useMemo(() => stretchAt(days, number), [days, number]);
  const read = pointed ?? chosen;
  const pick = useSteady((day: string) => {
    const choice = day === chosen ? null : day;
    setTurned({ number, chosen: choice });
    onChoose(choice);
  });
  return (
    <section className="card chart" aria-labelledby="chart-title">
      <div className="section-head">
        <h2 id="chart-title">Credits per day</h2>
        <ChartReadout day={days.find(({ day }) => day === read)} />
      </div>
      {days.length === 0 ? (
        <p className="empty">No message has a date that could be read.</p>
      ) : (
        <>
          <ChosenDay value={chosen}>
            <ChartPlot days={stretch.days} onPick={pick} onPoint={setPointed} />
          </ChosenDay>
          <ChartPages
            stretch={stretch}
            count={days.length}
            onTurn={(by) => setTurned({ number: number + by, chosen })}
          />
          <DayTable days={stretch.days} chosen={chosen} onPick={pick} />
        </>
      )}
    </section>
  );
}
