// The chart's numbers as a table, for those who do not see bars or do not point at them.
import { useState } from "react";

import { formatCount, formatCredits } from "@/text/credits";
import { formatRange } from "@/text/time";

import type { DayRange } from "../period";
import type { Bucket } from "./buckets";

interface Props {
  buckets: readonly Bucket[];
  caption: string;
  chosen: DayRange | null;
  onChoose: (range: DayRange | null) => void;
}

export function DayTable({ buckets, caption, chosen, onChoose }: Props) {
  // Rows that nobody has opened are not made: there may be hundreds.
  const [isOpen, setOpen] = useState(false);
  return (
    <details
      className="day-table"
      onToggle={(event) => setOpen(event.currentTarget.open)}
    >
      <summary>Show as a table</summary>
      {isOpen && (
        <table>
          <caption>{caption}</caption>
          <thead>
            <tr>
              <th scope="col">Day</th>
              <th scope="col">Messages</th>
              <th scope="col">Credits</th>
            </tr>
          </thead>
          <tbody>
            {buckets.map(({ from, to, messages, hundredths }) => {
              const isChosen = chosen?.from === from && chosen.to === to;
              return (
                <tr key={from}>
                  <th scope="row">
                    <button
                      type="button"
                      aria-pressed={isChosen}
                      onClick={() => onChoose(isChosen ? null : { from, to })}
                    >
                      {formatRange({ from, to })}
                    </button>
                  </th>
                  <td>{formatCount(messages)}</td>
                  <td>{formatCredits(hundredths)}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      )}
    </details>
  );
}
