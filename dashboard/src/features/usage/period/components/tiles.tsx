// The figures of the whole period, whatever the filters say.
import type { Freshness } from "@/api/freshness";
import { countOf, formatCount, formatCredits } from "@/text/credits";
import { dayOf, formatInstant, formatShortDay } from "@/text/time";

import type { Day, Totals } from "../period";
import { formatShare } from "../share";
import { Age } from "./age";
import { Tile } from "./tile";

interface Props {
  totals: Totals;
  busiest: Day | null;
  freshness: Freshness;
}

export function Tiles({ totals, busiest, freshness: { asOf } }: Props) {
  const { hundredths, messages, byReport } = totals;
  return (
    <dl className="tiles">
      <Tile title="Total credits" figure={formatCredits(hundredths)} />
      <Tile title="Messages" figure={formatCount(messages)} />
      <Tile
        title="Priced by a report"
        figure={formatShare(byReport, messages)}
        more={countOf(byReport, "message")}
      />
      <Tile
        title="Busiest day"
        figure={busiest ? formatShortDay(busiest.day) : "–"}
        more={
          busiest
            ? `${formatCredits(busiest.hundredths)} credits`
            : "No credits used yet"
        }
      />
      <Tile
        title="Last updated"
        figure={<Age asOf={asOf} />}
        more={`${formatShortDay(dayOf(asOf))}, ${formatInstant(asOf).slice(-5)} UTC`}
      />
    </dl>
  );
}
