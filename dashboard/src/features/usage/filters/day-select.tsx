// The filter by days. Days of the address that the period lacks are shown too.
import { memo, useId } from "react";

import { formatCredits } from "@/text/credits";
import { formatLongDay, formatRange } from "@/text/time";

import type { Day, DayRange } from "../period";

interface Props {
  days: readonly Day[];
  chosen: DayRange | null;
  onChoose: (range: DayRange | null) => void;
}

const ALL = "";
const SEVERAL = "several";

export function DaySelect({ days, chosen, onChoose }: Props) {
  const id = useId();
  const isListed =
    chosen === null ||
    (chosen.from === chosen.to && days.some(({ day }) => day === chosen.from));
  const isMissing =
    !isListed && !days.some(({ day }) => day >= chosen.from && day <= chosen.to);
  return (
    <div className="filter">
      <label htmlFor={id}>Day</label>
      <select
        id={id}
        value={isListed ? (chosen?.from ?? ALL) : SEVERAL}
        onChange={({ target: { value } }) =>
          onChoose(value === ALL ? null : { from: value, to: value })
        }
      >
        <option value={ALL}>All days</option>
        {!isListed && (
          <option value={SEVERAL} disabled>
            {formatRange(chosen) + (isMissing ? " (not in this period)" : "")}
          </option>
        )}
        <DayOptions days={days} />
      </select>
    </div>
  );
}

const DayOptions = memo(function DayOptions({ days }: Pick<Props, "days">) {
  return days.map(({ day, hundredths }) => (
    <option key={day} value={day}>
      {formatLongDay(day)} – {formatCredits(hundredths)} credits
    </option>
  ));
});
