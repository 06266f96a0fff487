// The filter by day. A day of the address that the period lacks is there to be seen.
import { memo, useId } from "react";

import { formatCredits } from "@/text/credits";
import { formatLongDay } from "@/text/time";

import type { Day } from "../period";

interface Props {
  days: readonly Day[];
  chosen: string | null;
  onChoose: (day: string | null) => void;
}

const EVERY_DAY = "";

export function DaySelect({ days, chosen, onChoose }: Props) {
  const id = useId();
  const isMissing = chosen !== null && !days.some(({ day }) => day === chosen);
  return (
    <div className="filter">
      <label htmlFor={id}>Day</label>
      <select
        id={id}
        value={chosen ?? EVERY_DAY}
        onChange={({ target }) =>
          onChoose(target.value === EVERY_DAY ? null : target.value)
        }
      >
        <option value={EVERY_DAY}>All days</option>
        {isMissing && (
          <option value={chosen}>{formatLongDay(chosen)} (not in this period)</option>
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
