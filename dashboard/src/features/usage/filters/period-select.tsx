// The switch between kept periods.
import { useId } from "react";

import { formatDay } from "@/text/time";

import type { KeptPeriod } from "../api/use-periods";

interface Props {
  /** The newest first. */
  periods: readonly KeptPeriod[];
  /** Id of a kept period; null is the current one. */
  chosen: string | null;
  onChoose: (period: string | null) => void;
}

const CURRENT = "";

export function PeriodSelect({ periods, chosen, onChoose }: Props) {
  const id = useId();
  const current = periods.find(({ isOpen }) => isOpen);
  const closed = periods.filter((period) => period !== current);
  const isCurrent = chosen === null || chosen === current?.id;
  const isListed = isCurrent || closed.some((period) => period.id === chosen);
  if (closed.length === 0 && isCurrent) return null;
  return (
    <div className="filter">
      <label htmlFor={id}>Period</label>
      <select
        id={id}
        value={isCurrent ? CURRENT : chosen}
        onChange={({ target: { value } }) => onChoose(value === CURRENT ? null : value)}
      >
        <option value={CURRENT}>Current period</option>
        {!isListed && <option value={chosen}>{formatDay(chosen)}</option>}
        {closed.map(({ id, from, to }) => (
          <option key={id} value={id}>
            {formatDay(from)} to {formatDay(to)}
          </option>
        ))}
      </select>
    </div>
  );
}
