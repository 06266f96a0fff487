// The chart's numbers as a table, for those who do not see bars or do not point at them.
import { useState } from "react";

import type { Day } from "../period";
import { DayRow } from "./day-row";

interface Props {
  days: readonly Day[];
  chosen: string | null;
  onPick: (day: string) => void;
}

export function DayTable({ days, chosen, onPick }: Props) {
  // Rows that nobody has asked for are not made: there may be hundreds.
  const [isOpen, setOpen] = useState(false);
  return (
    <details
      className="day-table"
      onToggle={(event) => setOpen(event.currentTarget.open)}
    >
      <summary>Show as a table</summary>
      {isOpen && (
        <table>
          <caption>Credits per day (UTC)</caption>
          <thead>
            <tr>
              <th scope="col">Day</th>
              <th scope="col">Messages</th>
              <th scope="col">Credits</th>
            </tr>
          </thead>
          <tbody>
            {days.map((day) => (
              <DayRow
                key={day.day}
                day={day}
                isChosen={day.day === chosen}
                onPick={onPick}
              />
            ))}
          </tbody>
        </table>
      )}
    </details>
  );
}
